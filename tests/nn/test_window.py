import numpy as np
import pytest

from jaxvision.errors import ModelError
from jaxvision.nn.window import relative_position_index, resize_relative_table, shifted_regions, window_partition, window_reverse


def test_windows_are_cut_row_by_row_and_joined_again():
    x = np.arange(2 * 6 * 8).reshape(2, 6, 8, 1)
    windows = window_partition(x, (3, 4))
    assert windows.shape == (2, 4, 12, 1)
    np.testing.assert_array_equal(windows[1, 1, :, 0], x[1, :3, 4:, 0].reshape(-1))
    np.testing.assert_array_equal(window_reverse(windows, (3, 4), (6, 8)), x)
    with pytest.raises(ModelError, match="6x8 is not whole windows of 4x4"):
        window_partition(x, (4, 4))


def test_relative_positions_number_each_offset_once():
    index = relative_position_index((2, 3))
    assert index.shape == (6, 6) and sorted(set(index.reshape(-1))) == list(range(3 * 5))
    for a in range(6):
        for b in range(6):
            (ya, xa), (yb, xb) = divmod(a, 3), divmod(b, 3)
            assert index[a, b] == (ya - yb + 1) * 5 + (xa - xb + 2)


def test_shifted_regions_separate_what_came_from_the_other_edge():
    regions = shifted_regions((4, 6), (2, 3), (1, 0))
    np.testing.assert_array_equal(regions, [[0] * 6, [0] * 6, [3, 3, 3, 6, 6, 6], [3, 3, 3, 6, 6, 6]])
    assert not shifted_regions((4, 6), (2, 3), (0, 0)).any()


def test_a_table_of_another_window_size_is_not_resized_unseen():
    with pytest.raises(ModelError, match="9 rows is not that of windows of 3x3"):
        resize_relative_table(np.zeros((9, 2)), (3, 3), (5, 5))
