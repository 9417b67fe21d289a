"""The architecture of an encoder: what its checkpoints mean."""

import dataclasses
from typing import Literal

from bert_jax.config.checks import (
    require,
    require_fitting,
    require_not_negative,
    require_positive,
    require_used,
)

EXTENDABLE = ("max_positions", "rope_theta", "local_rope_theta")
"""Fields that a run may change in the architecture of the checkpoint it starts from."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Architecture of one encoder. Defaults are BERT-Base (Devlin et al. 2018).

    Two ends of a hand-off have equal ones: a run and its checkpoints, a run and the
    run that it starts from. How it is computed stands in `ComputeConfig`.
    """

    vocab_size: int = 30_522
    """Number of pieces of the tokenizer. The token table is padded to a multiple of 128."""
    hidden_size: int = 768
    """Width D of the hidden states."""
    num_layers: int = 12
    """Number of encoder layers."""
    num_heads: int = 12
    """Number of attention heads. hidden_size must be a multiple of it."""
    mlp_size: int = 3_072
    """Inner width of the feed-forward layers. Of a gated one, the width of each half."""
    max_positions: int = 512
    """Length of the longest sequence in tokens; with learned positions, the rows of their
    table."""
    num_segments: int = 2
    """Rows of the segment table: 2 where sentence pairs have an A and a B. 1: both look
    alike, and get its one row. 0: there is no table."""
    gelu: Literal["tanh", "exact"] = "tanh"
    """Form of the GELU activation. tanh: the approximation of google-research/bert.
    exact: with the error function, which Hugging Face calls "gelu"."""
    layer_norm_eps: float = 1e-12
    """Added to the variance in the norms before its root is taken."""
    init_std: float = 0.02
    """Standard deviation of fresh weights: a normal distribution, cut at two deviations
    and not rescaled."""
    init_by_depth: bool = False
    """Divide the deviation of each layer's two output matrices by sqrt(2 * num_layers)
    (Radford et al. 2019)."""

    mlp: Literal["gelu", "geglu", "swiglu"] = "gelu"
    """Feed-forward layers. gelu: two matrices with GELU between them. geglu: one of two
    inner halves passes GELU and multiplies the other (Shazeer 2020). swiglu: likewise with
    SiLU, which the heads then have too."""
    norm_position: Literal["post", "pre"] = "post"
    """Where the norms are. post: after each residual addition, as in BERT. pre: before each
    attention and feed-forward layer, and once at the end (Xiong et al. 2020). Behind
    normalised embeddings, the first layer's attention then has none of its own."""
    norm: Literal["layer", "rms"] = "layer"
    """layer: layer norm. rms: without the mean (Zhang & Sennrich 2019)."""
    norm_bias: bool = True
    """Whether layer norms add a bias."""
    dense_bias: bool = True
    """Whether the matrix products of the layers add a bias."""
    embed_norm: bool = True
    """Whether the sum of the embeddings is normalised."""
    embed_size: int | None = None
    """Width of the embeddings, if a matrix widens them to hidden_size (Lan et al. 2020)."""
    positions: Literal["learned", "rotary"] = "learned"
    """How tokens know their places. learned: from a table, as in BERT. rotary: queries and
    keys are rotated by angles that grow with the place (RoPE, Su et al. 2021)."""
    position_offset: int = 0
    """Rows of the position table before that of the first token: 2 in RoBERTa."""
    rope_theta: float = 10_000.0
    """Base of the rotary angles; greater ones tell places apart that are further away."""
    local_rope_theta: float = 10_000.0
    """The same in layers with a window."""
    local_window: int | None = None
    """Window of the local layers: a token sees itself and local_window // 2 tokens on each
    side. Default: all layers are global."""
    global_every: int = 1
    """Of so many layers, the first one is global and the others have the window."""
    num_kv_heads: int | None = None
    """Number of heads of keys and values, each shared by as many heads of queries (Ainslie
    et al. 2023). Default: num_heads."""

    mlm_transform: bool = True
    """Whether the masked-LM head has a dense layer, activation and norm before the token
    table."""
    mlm_bias: bool = True
    """Whether the masked-LM logits have a bias for each piece."""
    tied_decoder: bool = True
    """Whether the masked-LM head multiplies with the token table, or has a table of its
    own."""
    head_bias: bool = True
    """Whether the dense layer of the masked-LM head has a bias."""
    next_sentence: bool = True
    """Whether pretraining trains a pooler and a next-sentence head. Without them, it needs
    data.pairs none."""
    pooling: Literal["cls", "mean", "late"] = "cls"
    """Which vector of a text a classifier reads. cls: that of the first token. mean: the
    mean over its tokens. late: the mean of what the pooler makes of each token."""
    pooler: Literal["tanh", "relu", "gelu", "mlm_transform"] = "tanh"
    """What stands between this vector and the classifier: a dense layer with that
    activation (gelu is the exact one). mlm_transform: dense layer, activation and norm of
    the masked-LM head, with its pretrained weights, also before the heads over tokens."""

    def __post_init__(self) -> None:
        require_fitting(self)
        require_positive(
            self,
            "vocab_size",
            "hidden_size",
            "num_layers",
            "num_heads",
            "mlp_size",
            "max_positions",
            "layer_norm_eps",
            "init_std",
            "rope_theta",
            "local_rope_theta",
            "global_every",
            "embed_size",
            "num_kv_heads",
            "local_window",
        )
        require_not_negative(self, "num_segments", "position_offset")
        for whole, part in (
            ("hidden_size", "num_heads"),
            ("num_heads", "num_kv_heads"),
        ):
            size, parts = getattr(self, whole), getattr(self, part) or 1
            require(
                size % parts == 0,
                f"ModelConfig.{whole}={size} must divide evenly by {part}={parts}; the "
                f"remainder is {size % parts}.",
            )
        self._check_positions()
        self._check_ignored()

    def _check_positions(self) -> None:
        require(
            self.positions == "learned" or self.head_size % 2 == 0,
            f"ModelConfig.hidden_size={self.hidden_size} and num_heads={self.num_heads} "
            f"make heads {self.head_size} wide; rotary positions rotate pairs, so choose "
            "heads of an even width.",
        )
        require(
            (self.local_window is None) == (self.global_every == 1),
            f"ModelConfig.local_window={self.local_window} and global_every="
            f"{self.global_every} do not fit: a window is for the layers between the "
            "global ones. Set both, such as 128 and 3, or neither.",
        )

    def _check_ignored(self) -> None:
        """Refuses a setting that another one makes meaningless."""
        rotary, learned = self.positions == "rotary", self.positions == "learned"
        for name, counts, needs in (
            ("position_offset", learned, "positions='learned'"),
            ("rope_theta", rotary, "positions='rotary'"),
            ("local_rope_theta", rotary and self.local_window, "a local_window"),
            ("norm_bias", self.norm == "layer", "norm='layer'"),
            ("head_bias", self.mlm_transform, "mlm_transform=True"),
        ):
            # RMS norm has no bias, whether or not that is said.
            is_used = bool(counts) or getattr(self, name) is False
            why = f"it needs {needs}. Set that, or leave it out."
            require_used(self, is_used, why, name)
        require(
            self.pooler != "mlm_transform" or self.mlm_transform,
            "ModelConfig.pooler='mlm_transform' needs mlm_transform=True.",
        )
        require(
            self.mlm_transform or self.embed_size is None or not self.tied_decoder,
            f"ModelConfig.embed_size={self.embed_size} needs mlm_transform=True, which "
            "brings the hidden states to the width of the token table.",
        )
        require(
            self.pooler != "mlm_transform" or self.embed_size is None,
            "ModelConfig.pooler='mlm_transform' has the width of the embeddings, so it "
            "does not go with embed_size.",
        )
        require(
            not self.next_sentence or self.pooler == "tanh",
            f"ModelConfig.pooler={self.pooler!r} goes with next_sentence=False: the "
            "pooler of the next-sentence task has tanh.",
        )

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def kv_heads(self) -> int:
        """Number of heads of keys and values."""
        return self.num_kv_heads or self.num_heads

    @property
    def token_width(self) -> int:
        """Width of the embeddings, before any matrix that widens them."""
        return self.embed_size or self.hidden_size

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the token table: a multiple of 128, so that any mesh divides it."""
        return -(-self.vocab_size // 128) * 128

    @property
    def local_reach(self) -> int | None:
        """How many tokens away a token of a local layer sees; None: no layer is local."""
        return None if self.local_window is None else self.local_window // 2

    def reach(self, layer: int) -> int | None:
        """How many tokens away a token of this layer sees; None: its whole sequence."""
        return None if layer % self.global_every == 0 else self.local_reach
