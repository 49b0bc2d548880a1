"""Text to train on, made up on the spot: every sentence different, none in any package."""

from itertools import islice, product

_ADJECTIVES = ("red", "old", "fast", "kind", "loud", "warm", "thin", "broken", "famous", "quiet")
_THINGS = ("boat", "horse", "teacher", "kitchen", "song", "winter", "bakery", "ticket", "guitar", "garden")
_VERBS = ("stops near", "reminds me of", "was sold to", "sounds like", "belongs to", "was painted for")
_OTHERS = ("my neighbour", "the new school", "an empty station", "her younger brother", "the village doctor")

_CHINESE = (
    ("今天", "昨天", "明天", "早上", "晚上"),
    ("我们", "他们", "老师", "孩子们", "邻居", "医生"),
    ("去公园散步", "在家吃饭", "看了一部电影", "学习外语", "打扫房间", "买了新车", "参加会议", "修理自行车"),
)


def sentences(count: int) -> str:
    """`count` sentences, one a line; at most 3,000."""
    parts = product(_OTHERS, _VERBS, _ADJECTIVES, _THINGS)
    step = max(1, 3000 // count)
    return "\n".join(f"The {a} {t} {v} {o}." for o, v, a, t in islice(parts, 0, count * step, step))


def chinese_sentences() -> list[str]:
    """240 of them, which differ in when, who or what."""
    return [f"{''.join(parts)}。" for parts in product(*_CHINESE)]
