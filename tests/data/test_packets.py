"""The rules about packets, against a literal model of what decord does with them."""

from hypothesis import given
from hypothesis import strategies as st

from videohpm.data.bitstream import is_idr, nal_length
from videohpm.data.packets import Row, frame_times, groups_are_closed


@st.composite
def stored_orders(draw):
    """Packets in a random stored order of display times, some of them key frames."""
    count = draw(st.integers(1, 12))
    times = draw(st.permutations(range(0, count * 3, 3)))
    keys = [True] + [draw(st.booleans()) for _ in range(count - 1)]
    return [Row(t, k, False, k) for t, k in zip(times, keys, strict=True)]


@given(stored_orders())
def test_groups_are_closed_where_every_key_frame_keeps_its_place(rows):
    """decord calls the n-th stored packet frame n where it is a key frame, and starts there."""
    right = True
    for place, row in enumerate(rows):
        if row.key:
            shown_before = {other.pts for other in rows if other.pts < row.pts}
            right &= {other.pts for other in rows[:place]} == shown_before
    assert groups_are_closed(rows) == right


def test_groups_are_not_closed_with():
    rows = [Row(0, True, False, True), Row(1, False, False, False)]
    assert groups_are_closed(rows)
    assert not groups_are_closed([*rows, Row(2, True, False, False)])
    assert not groups_are_closed([rows[0]._replace(discarded=True), rows[1]])


@given(stored_orders())
def test_frame_times_are_sorted_and_start_with_a_key(rows):
    shown, keys = frame_times(rows)
    if min(row.pts for row in rows) != rows[0].pts:
        assert shown is None and keys is None
    else:
        assert shown.tolist() == sorted(row.pts for row in rows)
        assert keys[0] == shown[0] and set(keys) <= set(shown)


def test_frame_times_need_every_stamp_once():
    first = Row(0, True, False, True)
    assert frame_times([])[0] is None
    assert frame_times([first, Row(None, False, False, False)])[0] is None
    assert frame_times([first, Row(0, False, False, False)])[0] is None
    assert frame_times([first._replace(key=False)])[0] is None
    shown, keys = frame_times([first._replace(discarded=True), Row(1, False, False, False)])
    assert shown.tolist() == [1] and keys.tolist() == [0]


@given(st.lists(st.tuples(st.integers(0, 31), st.binary(max_size=20)), max_size=6))
def test_idr_slices_are_found_in_both_layouts(units):
    """Units of (type, payload), prefixed by their length or by start codes."""
    units = [bytes([kind]) + payload.replace(b"\0", b"x") for kind, payload in units]
    holds = any(unit[0] == 5 for unit in units)
    assert is_idr(b"".join(len(u).to_bytes(4, "big") + u for u in units), 4) == holds
    assert is_idr(b"".join(len(u).to_bytes(2, "big") + u for u in units), 2) == holds
    assert is_idr(b"".join(b"\0\0\1" + u for u in units), 0) == holds


@given(st.binary(max_size=40), st.sampled_from([0, 1, 2, 4]))
def test_any_bytes_are_answered(data, length):
    assert is_idr(data, length) in (True, False)
    assert nal_length(data) in (0, 1, 2, 3, 4)


def test_empty_units_are_no_idr():
    assert not is_idr(b"", 4) and not is_idr(b"", 0)
    assert nal_length(None) == 0 and nal_length(bytes([1, 100, 0, 31, 0xFF])) == 4
