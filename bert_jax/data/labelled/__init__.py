"""Labelled files for fine-tuning: read into examples, encoded into rows of ids.

One file for each form of label: `texts` (a class or a number for a text or a pair),
`words` (a tag for each word), `questions` (a span of a passage), `choices` (the right one
of several), `text_pairs` (texts that belong together, or their similarity). None of them
knows what a model makes of its labels; that is the business of `train/tasks/`.
"""
