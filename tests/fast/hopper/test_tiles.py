"""How int8 matmuls are cut in tiles: how long, which are shared, and that every part of each is made once
(by the kernels' own functions, compiled for the processor)."""

from __future__ import annotations

import ctypes
import itertools
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from florilegium.fast.hopper import tiling

SHARES = (
    (1024, 32, 32, 128, 0),
    (768, 32, 32, 132, 96),
    (768, 96, 32, 132, 156),
    (1024, 96, 32, 132, 0),
    (768, 88, 32, 132, 0),
    (768, 8, 8, 24, 0),
    (256, 20, 32, 80, 20),
    (1792, 19, 1, 132, 133),
)


@pytest.mark.parametrize(("T", "tiles_o", "units", "programs", "shared"), SHARES)
def test_a_last_round_with_few_tiles_is_shared(T: int, tiles_o: int, units: int, programs: int, shared: int) -> None:
    assert tiling.shares(T, 256, tiles_o, units, 132) == (256, programs, shared)


def test_tiles_whose_activations_do_not_stay_in_the_cache_are_not_shared() -> None:
    """8,192 tokens: 67 MB of a sum over 16,384 rows are read at a time, 17 of one over 4,096."""
    assert tiling.shares(8192, 256, 32, 128, 132) == (256, 132, 0)
    assert tiling.shares(8192, 256, 32, 32, 132) == (256, 132, 232)


def test_tiles_are_as_long_as_fills_the_multiprocessors() -> None:
    """4,096 outputs are 32 tiles, and four of them a token tile are 128 for 132 multiprocessors."""
    assert [tiling.tiling(T, 32, 32, 132, sharing=True)[0] for T in (512, 640, 768, 896, 1024)] == [
        128,
        160,
        192,
        224,
        256,
    ]
    for T, tiles_o, units, sharing in itertools.product((64, 600, 4096), (1, 20, 128), (1, 20, 128), (False, True)):
        found = tiling.tiling(T, tiles_o, units, 132, sharing=sharing)
        assert 0 < found.programs <= 132 and (sharing or not found.shared)


@pytest.fixture(scope="module")
def order(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`tile_schedule.cuh`, compiled for the processor."""
    compiler = shutil.which("c++")
    if compiler is None:  # CI has one; a Python machine may not
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("order")
    (folder / "order.cpp").write_text(
        f"""#define INSIDE inline
        constexpr int TOKENS = 256, CLUSTER = 1;
        #include "{Path(tiling.__file__).with_name("tile_schedule.cuh")}"
        extern "C" void piece(int number, int me, int programs, int units, int shared, int tiles, Piece *to) {{
            *to = piece_of(number, me, programs, units, shared, tiles);
        }}
        extern "C" int first(int tile, int programs, int units, int shared) {{ return first_of(tile, programs, units, shared); }}
        extern "C" void place(int tile, int tiles_t, int tiles_o, Place *to) {{ *to = place_of(tile, tiles_t, tiles_o); }}"""
    )
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / "order.so", folder / "order.cpp"], check=True)
    return ctypes.CDLL(str(folder / "order.so"))


@pytest.mark.parametrize(
    ("T", "tiles_o", "units", "processors"),
    [
        *((*sides, 132) for *sides, _, _ in SHARES),
        (256, 128, 8, 114),
        (640, 50, 32, 7),
        (96, 3, 64, 16),
        (256, 49, 32, 132),
        (256, 45, 20, 132),
    ],
)
def test_every_part_of_a_tile_is_made_once(T: int, tiles_o: int, units: int, processors: int, order: Any) -> None:
    """By the kernel's own function. Parts that are left for another are a program's first, and of those before it in
    the row."""
    tokens, programs, shared = tiling.shares(T, 256, tiles_o, units, processors)
    tiles = -(-T // tokens) * tiles_o
    made, left, gathered = [], {}, {}
    piece = (ctypes.c_int * 3)()
    for me in range(programs):
        for number in itertools.count():
            order.piece(number, me, programs, units, shared, tiles, piece)
            tile, begin, end = piece
            if tile >= tiles:
                break
            made += [(tile, unit) for unit in range(begin, end)]
            if end < units:
                assert number == 0
                left.setdefault(tile, []).append(me)
            elif begin > 0:
                gathered[tile] = list(range(order.first(tile, programs, units, shared), me))
    assert sorted(made) == [(tile, unit) for tile in range(tiles) for unit in range(units)]
    assert left == gathered


@pytest.mark.parametrize(("tiles_t", "tiles_o"), [(1, 32), (4, 32), (8, 3), (11, 5), (32, 128)])
def test_every_tile_has_its_place(tiles_t: int, tiles_o: int, order: Any) -> None:
    found = set()
    for tile in range(tiles_t * tiles_o):
        place = (ctypes.c_int * 2)()
        order.place(tile, tiles_t, tiles_o, place)
        found.add(tuple(place))
    assert found == {(256 * t, 128 * o) for t in range(tiles_t) for o in range(tiles_o)}
