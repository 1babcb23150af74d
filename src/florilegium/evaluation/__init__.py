"""What a tuned model learned, and whether it repeats its training rows."""

from florilegium.evaluation.figures import most_frequent_tags, tag_f1
from florilegium.evaluation.novelty import NoveltyIndex

__all__ = ["NoveltyIndex", "most_frequent_tags", "tag_f1"]
