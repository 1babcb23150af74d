"""The reference implementations of `fast/`: the same functions in PyTorch's own terms, for where no kernel can run, and
to compare the kernels with.

Nothing outside this folder is imported here.
"""

from florilegium.reference.attention import Attend, alibi_slopes, sdpa_attention
from florilegium.reference.dropout import Dropout, drop_limit, dropout_keep, uniform_noise
from florilegium.reference.head_loss import cross_entropy_losses
from florilegium.reference.logits import AS_THEY_ARE, LogitRule, head_logits

__all__ = [
    "AS_THEY_ARE",
    "Attend",
    "Dropout",
    "LogitRule",
    "alibi_slopes",
    "cross_entropy_losses",
    "drop_limit",
    "dropout_keep",
    "head_logits",
    "sdpa_attention",
    "uniform_noise",
]
