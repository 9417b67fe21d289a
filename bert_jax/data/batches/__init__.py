"""From a prepared dataset to the batch of a step.

Sentences are joined to chunks (`chunks`), chunks become pairs or single segments
(`pairs`), and these fill rows (`packing`, `buckets`). All of it is planned for a whole
epoch at once (`epochs`, `epoch_plans`); `rows` finds the rows of a step and `loader`
makes its batch ahead of time.
"""
