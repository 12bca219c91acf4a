"""Prints passwords and the documents that PyYAML writes for them, as JSON."""

import itertools, json, random, yaml
random.seed(1)
odd = ["".join(parts) for parts in itertools.product(
    ["", "+", "-"], ["1", "12", "0", "0123", "089", "1.5", "1.", ".5", "1_0", "1_0.5"],
    ["", "e5", "E05", "e+5", "E-10", "e+", "e"])]
odd += [sign + prefix + digits for sign in ["", "+", "-"]
        for prefix in ["0o", "0x", "0b", "0O", "0X"] for digits in ["17", "1F", "101", "8", "_7", ""]]
odd += [f"{random.getrandbits(32):08x}" for _ in range(100)]
odd += [f"{random.randrange(10**5)}e{random.randrange(100):02}" for _ in range(100)]
odd += [form(word) for word in ["true", "false", "yes", "no", "on", "off", "y", "n", "null", "none", ".inf", ".nan"]
        for form in [str, str.upper, str.title]]
odd += ["~", "=", "<<", "---", "...", "|", ">", "-", "?", ":", "- a", "? a", ": a", "a: b", "a:b", "a #b", "#a", "&a", "*a",
        "!a", "!!str a", "%a", "@a", "`a", "[a]", "{a}", "[", "{", ",", "'a'", '"a"', "'", '"', "a'b", "\\n", "a\tb",
        "1:30", "1:30.5", "190:20:30", "2026-01-01", "2026-01-01T00:00:00Z", "2026-1-1 0:0:0", "0" * 20, "9" * 30,
        "9" * 128, "x" * 128, "a b " * 30 + "c", "äöü", "…", "日本", "🦀", "\x07", "a\x1bb", "a\x85b", "a\u2028b", "a\nb",
        "a\n\nb", " a", "\ta", "\na", "a\u00a0", ".", "..", "+", "+.inf", "-.INF", "0.", "1__0", "0b", "1e", "e1", "0xe+1"]
odd = list(dict.fromkeys(word for word in odd if word))
print(json.dumps([[word, yaml.safe_dump({"username": "scraper", "password": word})] for word in odd]))
