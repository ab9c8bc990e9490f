"""Redaction: a synthetic corpus with full recall, plain numbers untouched."""

from __future__ import annotations

import random

import orjson
import polars as pl
import pytest

from pipelines import redact as module
from pipelines.redact import CHECKS, PROVINCES, WEIGHTS, redact, redact_series

WIDE = {ord(c): chr(ord(c) + 0xFEE0) for c in "0123456789X@ABCDEFGHJKLMNPQRSTUVWXYZ"}
TALK = (
    "市民来电,{}反映路灯不亮",
    "请回复{}。",
    "contact {} asap",
    "{}",
    '{{"note":"{}","n":3}}',
    "联系人王某 {},地址中山路3号",
)


def identity(rnd: random.Random) -> str:
    born = f"{rnd.randint(1930, 2015)}{rnd.randint(1, 12):02}{rnd.randint(1, 28):02}"
    body = f"{rnd.randint(11, 65)}{rnd.randint(0, 9999):04}{born}{rnd.randint(0, 999):03}"
    return body + CHECKS[sum(int(d) * w for d, w in zip(body, WEIGHTS, strict=True)) % 11]


def card(rnd: random.Random) -> str:
    start, length = rnd.choice([("62", 16), ("62", 19), ("4", 16), ("51", 16), ("37", 15), ("6011", 16), ("95588", 19)])
    body = start + "".join(rnd.choices("0123456789", k=length - len(start) - 1))
    return next(body + d for d in "0123456789" if luhn(body + d))


def luhn(number: str) -> bool:
    return sum(sum(divmod(int(d) * (1 + i % 2), 10)) for i, d in enumerate(reversed(number))) % 10 == 0


def mobile(rnd: random.Random) -> str:
    return f"1{rnd.randint(3, 9)}{rnd.randint(0, 999_999_999):09}"


def plate(rnd: random.Random) -> str:
    letters = "ABCDEFGHJKLMNPQRSTUVWXYZ"
    tail = rnd.choice(["{0}12{1}4", "9{0}7{1}6", "12345", "D12345", "F0{0}234", "123{0}挂", "1234学"])
    return rnd.choice(PROVINCES) + rnd.choice(letters) + rnd.choice(["", "·"]) + tail.format(*rnd.choices(letters, k=2))


def email(rnd: random.Random) -> str:
    name, host = rnd.choice(["li.wei", "zhang_3", "a+b"]), rnd.choice(["qq.com", "mail.gov.cn", "x-y.org"])
    return f"{name}{rnd.randint(0, 99)}@{host}"


def spaced(rnd: random.Random, kind: str, text: str) -> str:
    if kind == "id":
        return rnd.choice(
            [text, f"{text[:6]} {text[6:14]} {text[14:]}", f"{text[:6]}-{text[6:14]}-{text[14:]}", text.lower()]
        )
    if kind == "mobile":
        return rnd.choice(
            [
                text,
                f"{text[:3]} {text[3:7]} {text[7:]}",
                f"{text[:3]}-{text[3:7]}-{text[7:]}",
                f"+86 {text}",
                f"86{text}",
            ]
        )
    if kind == "card" and len(text) != 15:
        return rnd.choice([text, " ".join(text[i : i + 4] for i in range(0, len(text), 4))])
    return text


def corpus(n: int, seed: int = 1) -> list[tuple[str, str, str]]:
    """(line, what must be gone from it, its tag)."""
    rnd, out = random.Random(seed), []
    makers = {"id": identity, "card": card, "mobile": mobile, "plate": plate, "email": email}
    for k in range(n):
        kind = list(makers)[k % len(makers)]
        text = spaced(rnd, kind, makers[kind](rnd))
        if rnd.random() < 0.2:
            text = text.translate(WIDE).replace(" ", "\u3000")
        out.append((rnd.choice(TALK).format(text), text, f"[{kind}]"))
    return out


def recall(lines: list[tuple[str, str, str]]) -> float:
    hits = sum(tag in redact(line) and secret not in redact(line) for line, secret, tag in lines)
    return hits / len(lines)


def test_recall() -> None:
    lines = corpus(2000)
    missed = [(line, redact(line)) for line, secret, tag in lines if secret in redact(line) or tag not in redact(line)]
    print(f"{len(lines)} lines, recall {recall(lines):.4f}")
    assert len(lines) >= 1000 and recall(lines) >= 0.995, missed[:5]


def test_surroundings_stay() -> None:
    for line, secret, tag in corpus(500, seed=2):
        assert redact(line) == line.replace(secret, tag), line


def test_plain_numbers_stay() -> None:
    rnd = random.Random(3)
    ms = [str(rnd.randint(946_684_800_000, 4_102_444_800_000)) for _ in range(1000)]
    plain = [
        *ms,
        *(t[:10] for t in ms),
        *(t + "000" for t in ms[:300] if t[0] == "1"),
        *(t + "000000" for t in ms[:300] if t[0] == "1"),
    ]
    plain += [
        orjson.dumps({"t": int(t), "place": "L00001", "tt_ms": rnd.randint(1, 36_000_000), "n": 3}).decode() for t in ms
    ]
    plain += [f"{t},{int(t) + 60000},{rnd.randint(0, 999)}" for t in ms] + [f"{t} {int(t) + 60000}" for t in ms]
    plain += [
        "2026-11-25T10:00:00.123+08:00",
        "31.230416,121.473701",
        "0.13912345678",
        "SR-2026-0001234",
        "192.168.100.200:8443",
    ]
    plain += [
        "川Python编程",
        "京Android",
        "550e8400-e29b-41d4-a716-446655440000",
        "@home",
        "12 34 56 78 91 23 45",
        "电话110,120",
    ]
    changed = [(text, redact(text)) for text in plain if redact(text) != text]
    print(f"{len(plain)} plain texts, {len(changed)} changed")
    assert len(plain) > 5000 and not changed, changed[:5]


def test_wrong_check_digits_stay() -> None:
    rnd, n = random.Random(4), 0
    for _ in range(300):
        number = identity(rnd)
        wrong = number[:17] + CHECKS[(CHECKS.index(number[17]) + 1) % 11]
        assert wrong in redact(f"no {wrong}") or luhn(wrong.replace("X", "0"))
        digits = card(rnd)
        off = digits[:-1] + str((int(digits[-1]) + 1) % 10)
        assert redact(off) == off
        n += 2
    assert n == 600


def test_series_is_the_same_and_keeps_nulls() -> None:
    lines = [line for line, _, _ in corpus(1000, seed=6)]
    texts = pl.Series("note", [*lines, None, "", "1772409600000", "路灯不亮"] * 2)
    assert redact_series(texts).to_list() == [None if x is None else redact(x) for x in texts.to_list()]
    quiet = pl.Series("note", ["a", None])
    assert redact_series(quiet).to_list() == ["a", None]


def test_twice_is_once() -> None:
    assert all(redact(redact(line)) == redact(line) for line, _, _ in corpus(300, seed=7))


def test_negative_control(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one kind the recall must fall."""
    monkeypatch.setattr(module, "_KINDS", module._KINDS[1:])
    assert recall(corpus(1000)) < 0.9
