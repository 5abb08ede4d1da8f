"""Pickles of the archive are read, and every other pickle is refused."""

import contextlib
import os
import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import cifar_files
from helpers.cifar_files import quiet
from helpers.endless_pickles import ENDLESS
from parity import data
from parity.data import cifar10_pickles
from parity.errors import InputError
from parity.files import pickles as plain_pickles


class _Runs:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def gadgets(marker):
    code = f"open({str(marker)!r}, 'w')"
    stack_global = b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c" + bytes([len(code)]) + code.encode() + b"\x85R."
    return {
        "system": pickle.dumps(_Runs(os.system, f"touch {marker}"), 2),
        "eval": pickle.dumps({b"data": _Runs(eval, code)}, 2),
        "stack global": stack_global,
        "instance": b"(S'touch " + str(marker).encode() + b"'\nios\nsystem\n.",
        "attribute of an admitted module": b"cnumpy.core.multiarray\nfromfile\n(U\x01xtR.",
        "nested name": b"\x80\x04\x8c\x05numpy\x8c\x0bdtype.mro.x\x93.",
        "extension": b"\x80\x02\x82\x01.",
        "persistent": b"\x80\x02U\x01xQ.",
    }


@pytest.mark.parametrize("gadget", gadgets("x"))
def test_a_pickle_that_wants_to_run_code_is_refused_and_nothing_runs(gadget, cifar10_batches, tmp_path):
    marker = tmp_path / "ran"
    cifar10_batches["data_batch_4"] = gadgets(marker)[gadget]
    archive = cifar_files.archive(tmp_path / "cifar-10-python.tar.gz", cifar10_batches)
    for place in (archive, cifar_files.folder(tmp_path / "unpacked", cifar10_batches)):
        with pytest.raises(InputError, match="data_batch_4 is"):
            data.load("cifar10", place, quiet)
    assert not marker.exists()


def test_the_same_pickles_do_run_where_pickle_is_trusted(tmp_path):
    with contextlib.suppress(Exception):
        pickle.loads(gadgets(tmp_path / "ran")["system"])
    assert (tmp_path / "ran").exists()


def pickled_array(rows=b"K\x02", columns=b"K\x01", kind=b"u1", order=b"\x89", raw=b"ab"):
    """Return the pickle of a dict with one array, by default uint8 [2, 1]. Each part can be replaced."""
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    dtype = b"cnumpy\ndtype\nU" + bytes([len(kind)]) + kind + b"K\x00K\x01\x87R" if kind else b"N"
    state = b"(K\x01" + rows + columns + b"\x86" + dtype + order + b"U" + bytes([len(raw)]) + raw + b"tb"
    return b"\x80\x02}U\x04data" + array + state + b"s."


def test_a_plain_array_is_read():
    assert cifar10_pickles.read_batch(pickled_array())["data"].tolist() == [[97], [98]]


@pytest.mark.parametrize("protocol", range(2, 5))
def test_arrays_of_floats_are_read_bit_for_bit_in_every_protocol_shape_and_order(protocol):
    numbers = np.random.default_rng(0).standard_normal((2, 3, 4))
    kinds = [numbers.astype(kind) for kind in ("<f2", "<f4", "<f8")]
    shapes = [numbers[0].T, np.asfortranarray(numbers), np.array(3.5), numbers[:, ::2]]
    written = {f"{i}": array for i, array in enumerate([*kinds, *shapes])}
    read = plain_pickles.read(pickle.dumps(written, protocol))
    assert list(read) == list(written)
    for name, array in written.items():
        assert (read[name].dtype, read[name].shape) == (array.dtype, array.shape)
        assert np.array_equal(read[name], array)
        assert not read[name].flags.writeable


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_arrays_of_either_numpy_are_read(module):
    written = pickle.dumps({"a": np.arange(3.0)}, 2)
    own = next(name for name in (b"numpy._core.multiarray", b"numpy.core.multiarray") if name in written)
    assert plain_pickles.read(written.replace(own, module))["a"].tolist() == [0, 1, 2]


def test_floats_of_another_byte_order_are_refused():
    with pytest.raises(InputError, match="byte order"):
        plain_pickles.read(pickle.dumps({"a": np.arange(3, dtype=">f4")}, 2))


MINUS_ONE, MINUS_TWO = b"J\xff\xff\xff\xff", b"J\xfe\xff\xff\xff"


@pytest.mark.parametrize(
    "written",
    {
        "an array of objects": pickled_array(kind=b"O8"),
        "an array of floats": pickled_array(kind=b"f4"),
        "an array of no type": pickled_array(kind=b""),
        "bytes of a length that is a lie": b"\x80\x05}\x96" + (2**40).to_bytes(8, "little") + b"Ns.",
        "an array of no order": pickled_array(order=b"N"),
        "an array longer than its bytes": pickled_array(rows=b"K\x03"),
        "an array shorter than its bytes": pickled_array(rows=b"K\x01"),
        "an array of negative sizes": pickled_array(rows=MINUS_ONE, columns=MINUS_TWO),
        "an array of huge sizes": pickled_array(rows=b"\x8a\x09" + b"\xff" * 8 + b"\x00"),
        "a string in another encoding": b"\x80\x02}c_codecs\nencode\nX\1\0\0\0xX\5\0\0\0rot13\x86RNs.",
        "a memo of four thousand million places": b"\x80\x02]r\xff\xff\xff\xff.",
        "a list that holds itself": b"\x80\x02]q\x00h\x00a.",
        "a number": b"\x80\x02K\x01.",
        "no end": b"}" * 1000,
        "nothing": b"",
    }.items(),
    ids=lambda written: written[0],
)
def test_a_pickle_of_another_content_is_refused(written):
    with pytest.raises(InputError):
        cifar10_pickles.read_batch(written[1])


def test_the_pickle_that_never_ended_is_the_one_that_was_found():
    assert len(ENDLESS["a key"]) == 491


@pytest.mark.timeout(20)
@pytest.mark.parametrize("what", ENDLESS)
def test_a_pickle_that_would_take_forever_is_refused_at_once(what, cifar10_batches, tmp_path):
    with pytest.raises(InputError):
        plain_pickles.read(ENDLESS[what])
    cifar10_batches["data_batch_1"] = ENDLESS[what]
    with pytest.raises(InputError, match="data_batch_1 is"):
        data.load("cifar10", cifar_files.folder(tmp_path / "unpacked", cifar10_batches), quiet)


@pytest.mark.parametrize("key", [b"K\x01", b"N", b"\x88", b"U\x01a\x85", b"G" + bytes(8)])
def test_only_strings_and_bytes_are_keys(key):
    assert plain_pickles.read(b"}U\x01aNs.") == {"a": None}
    with pytest.raises(InputError, match="as a key"):
        plain_pickles.read(b"}" + key + b"Ns.")


def test_strings_that_are_decoded_many_times_are_refused_before_memory_is_full():
    text = b"x" * 10**6
    start = (
        b"\x80\x02}c_codecs\nencode\nq\x000X"
        + len(text).to_bytes(4, "little")
        + text
        + b"q\x01X\6\0\0\0latin1\x86q\x020"
    )
    again = b"".join(b"U\x04%04dh\x00h\x02Rs" % i for i in range(1000))
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="unpacks to more than its own size"):
            plain_pickles.read(start + again + b".")
        assert tracemalloc.get_traced_memory()[1] < 10 * len(text)
    finally:
        tracemalloc.stop()


def test_nothing_but_arrays_and_their_dtypes_can_be_changed():
    with pytest.raises(InputError, match="sets the state of something else than an array"):
        plain_pickles.read(b"\x80\x02}cnumpy.core.multiarray\n_reconstruct\nN}U\x0c__defaults__)s\x86b0.")


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_pickle_damaged_in_any_way_is_read_or_refused_and_nothing_else(draw):
    images = np.arange(3 * 3072, dtype=np.uint8).reshape(3, 3, 32, 32)
    content = bytearray(cifar_files.python2_pickle(images, [1, 2, 3]))
    body = content.index(images.tobytes())
    places = st.one_of(st.integers(0, body), st.integers(body + images.size, len(content) - 1))
    for place in draw.draw(st.lists(places, min_size=1, max_size=4)):
        content[place] = draw.draw(st.integers(0, 255))
    with contextlib.suppress(InputError):
        assert isinstance(cifar10_pickles.read_batch(bytes(content)), dict)
