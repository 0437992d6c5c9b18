"""Segments, token shards and splits: read as written, every damage noticed."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from moediff.core import artifact
from moediff.core.errors import DamagedError, UserError
from moediff.corpus import packing, token_shards

PROVENANCE = artifact.made_by("token_shards")

DOCUMENT = np.array([[5, 5, 5, 7, 7, 9], [9, 9, 2, 3, 3, 3], [3, 3, 3, 3, 3, 3]])

STARTS = np.array([[1, 0, 0, 1, 0, 1], [1, 0, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0]], bool)


def test_segments_start_at_every_document_and_every_sequence() -> None:
    assert np.array_equal(packing.segment_starts(DOCUMENT), STARTS)
    positions = [[0, 1, 2, 0, 1, 0], [0, 1, 0, 0, 1, 2], [0, 1, 2, 3, 4, 5]]
    assert packing.segment_positions(STARTS).tolist() == positions


def test_attention_across_documents_leaves_only_the_sequence() -> None:
    starts = packing.segment_starts(DOCUMENT, attend_across_documents=True)
    assert np.argwhere(starts).tolist() == [[0, 0], [1, 0], [2, 0]]
    assert packing.segment_positions(starts).tolist() == [[0, 1, 2, 3, 4, 5]] * 3


def arrays(document: np.ndarray = DOCUMENT, seed: int = 0) -> dict[str, np.ndarray]:
    values = np.random.default_rng(seed).integers(0, 4096, document.shape)
    return {
        "tokens": values.astype(np.uint16),
        "document": document.astype(np.int64),
        "group": (document // 3).astype(np.int64),
        "domain": (document % 2).astype(np.uint8),
        "start": (2 * values).astype(np.uint32),
        "end": (2 * values + 2).astype(np.uint32),
        "word_end": values % 3 == 0,
    }


def written(
    path: Path, content: dict, tokenizer: str = "abc", first: int = 0, special: tuple = (0, 7)
) -> Path:
    facts = ["even", "odd"], tokenizer, first, PROVENANCE, special
    token_shards.write_token_shard(path, content, *facts)
    return path


@pytest.fixture
def large() -> dict[str, np.ndarray]:
    return arrays(np.arange(64 * 128).reshape(64, 128) // 50)


def test_a_shard_is_read_as_written(tmp_path: Path) -> None:
    content = arrays()
    shard = token_shards.read_token_shard(written(tmp_path / "0.h5", content, first=12))
    for key, array in content.items():
        assert getattr(shard, key).dtype == array.dtype
        assert np.array_equal(getattr(shard, key), array)
    assert (shard.domains, shard.tokenizer, shard.first) == (("even", "odd"), "abc", 12)
    assert shard.special == (0, 7)
    same = token_shards.read_token_shard(written(tmp_path / "1.h5", content))
    other = token_shards.read_token_shard(written(tmp_path / "2.h5", arrays(seed=1)))
    again = token_shards.read_token_shard(written(tmp_path / "3.h5", content))
    assert again.digest == same.digest != other.digest
    assert shard.digest != same.digest  # another place in the split
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["0.h5", "1.h5", "2.h5", "3.h5"]


@pytest.mark.parametrize("name", ["start", "end", "word_end"])
def test_other_spans_are_another_digest(tmp_path: Path, name: str) -> None:
    content = arrays()
    digests = [token_shards.read_token_shard(written(tmp_path / "0.h5", content)).digest]
    content[name] = content[name].copy()
    content[name][1, 2] ^= 1
    digests.append(token_shards.read_token_shard(written(tmp_path / "1.h5", content)).digest)
    assert digests[0] != digests[1]


def test_equal_shards_are_equal_bytes(tmp_path: Path) -> None:
    first, second = (written(tmp_path / f"{i}.h5", arrays()).read_bytes() for i in range(2))
    assert first == second


def damaged(path: Path) -> str:
    with pytest.raises(DamagedError) as caught:
        token_shards.read_token_shard(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert f"rm '{path}'" in message
    return message


def test_a_flipped_bit_of_an_attribute_is_noticed(tmp_path: Path) -> None:
    path = written(tmp_path / "0.h5", arrays())
    whole = path.read_bytes()
    place = whole.index(b"abc")  # its tokenizer
    for bit in range(24):  # some make no text of it
        data = bytearray(whole)
        data[place + bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        damaged(path)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_a_cut_shard_is_noticed(tmp_path: Path, large: dict, share: float) -> None:
    path = written(tmp_path / "0.h5", large)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    damaged(path)


@pytest.mark.parametrize(
    "name", ["tokens", "document", "group", "domain", "start", "end", "word_end"]
)
def test_a_flipped_byte_is_noticed(tmp_path: Path, large: dict, name: str) -> None:
    path = written(tmp_path / "0.h5", large)
    with h5py.File(path, "r") as file:
        chunk = file[name].id.get_chunk_info(0)
    place = chunk.byte_offset + chunk.size // 2
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    damaged(path)


def test_content_changed_with_its_checksums_is_noticed(tmp_path: Path, large: dict) -> None:
    path = written(tmp_path / "0.h5", large)
    with h5py.File(path, "r+") as file:
        file["tokens"][3, 4] += 1
    assert "do not match their digest" in damaged(path)


@pytest.mark.parametrize("name", ["domain", "group", "word_end"])
def test_a_shard_without_one_of_its_arrays_is_noticed(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / "0.h5", arrays())
    with h5py.File(path, "r+") as file:
        del file[name]
    damaged(path)


def test_a_shard_of_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "0.h5"
    provenance = PROVENANCE | {"format": 99}
    token_shards.write_token_shard(path, arrays(), ["even", "odd"], "abc", 0, provenance, [0])
    with pytest.raises(UserError, match="written in format 99"):
        token_shards.read_token_shard(path)


def test_a_shard_that_is_not_there_is_not_called_damaged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        token_shards.read_token_shard(tmp_path / "0.h5")


def test_a_split_is_its_shards_in_order(tmp_path: Path) -> None:
    whole = arrays()
    parts = [{key: array[rows] for key, array in whole.items()} for rows in ([0, 1], [2])]
    paths = [written(tmp_path / f"{i}.h5", part, first=2 * i) for i, part in enumerate(parts)]
    split = token_shards.TokenSplit(paths)
    assert len(split) == 3
    assert np.array_equal(split.tokens, whole["tokens"])
    assert np.array_equal(split.domain, whole["domain"])
    assert np.array_equal(split.starts, STARTS)
    assert split.domains == ("even", "odd")
    assert split.digest != token_shards.TokenSplit(paths[:1]).digest
    assert not any(isinstance(value, np.ndarray) for value in vars(split).values())
    for rows in (slice(1, 3), slice(None, None, 2), np.array([2, 0, 2, -1])):
        assert np.array_equal(split.tokens[rows], whole["tokens"][rows])
        assert np.array_equal(split.is_target[rows], ~STARTS[rows][:, 1:])


def test_targets_are_what_has_something_before_it(tmp_path: Path) -> None:
    path = written(tmp_path / "0.h5", arrays())
    expected = [[1, 1, 0, 1, 0], [1, 0, 0, 1, 1], [1, 1, 1, 1, 1]]
    assert token_shards.TokenSplit([path]).is_target[:].astype(int).tolist() == expected
    assert token_shards.TokenSplit([path], attend_across_documents=True).is_target[:].all()


def test_shards_of_two_tokenizers_are_not_one_split(tmp_path: Path) -> None:
    paths = [written(tmp_path / f"{i}.h5", arrays(), tokenizer=f"t{i}") for i in range(2)]
    with pytest.raises(UserError, match="different tokenizers"):
        token_shards.TokenSplit(paths)


@pytest.mark.parametrize("fact", [b'["even", "odd"]', b"0123456789abcdef", b"[11111, 22222]"])
def test_a_flipped_byte_of_what_stands_beside_the_arrays(tmp_path: Path, fact: bytes) -> None:
    path = written(
        tmp_path / "0.h5", arrays(), tokenizer="0123456789abcdef", special=(11111, 22222)
    )
    content = path.read_bytes()
    assert content.count(fact) == 1
    path.write_bytes(content.replace(fact, fact[:3] + bytes([fact[3] ^ 1]) + fact[4:]))
    damaged(path)
