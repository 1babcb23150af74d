"""The reference implementations of `fast/`: the same functions in PyTorch's own terms, for where no kernel can run, and
to compare the kernels with.

Nothing outside this folder is imported here.
"""

from florilegium.reference.attention import Attend, alibi_slopes, sdpa_attention
from florilegium.reference.head_loss import cross_entropy_losses

__all__ = ["Attend", "alibi_slopes", "cross_entropy_losses", "sdpa_attention"]
