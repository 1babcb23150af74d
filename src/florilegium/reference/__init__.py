"""The plain twins of the fast room: the same functions in torch's own terms, for where nothing fast can run, and to
hold the fast to.

Nothing outside this folder is imported here.
"""

from florilegium.reference.attention import Attend, alibi_slopes, plain
from florilegium.reference.head_loss import plain_head_losses

__all__ = ["Attend", "alibi_slopes", "plain", "plain_head_losses"]
