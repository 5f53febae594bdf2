"""Settings and values of the property-based tests (hypothesis).

`make test` tries the same few examples every time. `EXAMPLES=5000 pytest -m hypothesis` tries more.
"""

import os
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

FEW = 40


def examples(share: float = 1.0) -> settings:
    """For a test: `share` of FEW, or of as many as the environment asks for; always the same."""
    return settings(
        max_examples=max(1, round(share * int(os.environ.get("EXAMPLES", FEW)))),
        derandomize=True,
        database=None,
        deadline=None,  # other processes share the machine
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


# Any text that a file in UTF-8 can hold.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)

# Any value that JSON or YAML can hold, texts that look like other types included.
scalars: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 300),
    st.integers(-(2**70), 2**70),
    st.floats(),
    texts,
    st.sampled_from(
        ["", "none", "null", "1", "1e3", "-1", "0x10", "true", "nan", "1,2", "1x2", "~"]
    ),
)
values: st.SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
