import pytest

from aillm_tf.tpu.topology import CHIPS, prices, topology


@pytest.mark.parametrize(
    ("name", "chips", "hosts"), [("v5e:2x4", 8, 1), ("v5e:4x4", 16, 2), ("v5p:2x2x1", 4, 1), ("v6e:2x2", 4, 1)]
)
def test_chips_and_hosts_of_a_slice(name, chips, hosts):
    assert (topology(name).chips, topology(name).hosts) == (chips, hosts)


@pytest.mark.parametrize(
    ("name", "told"),
    [("v9:2x2", "known are v4"), ("v5e", "as in v5e:2x2"), ("v5e:2x2x1", "has 3 axes"), ("v5e:0x2", "none of them 0")],
)
def test_a_wrong_topology_says_what_there_is(name, told):
    with pytest.raises(ValueError, match=told):
        topology(name)


def test_prices_of_a_file_take_the_place_of_the_list(tmp_path):
    file = tmp_path / "prices.yaml"
    file.write_text("v5e: 0.5\n")
    assert topology("v5e:2x4", prices(file)).dollars_per_hour == 4.0
    assert topology("v6e:2x4", prices(file)).dollars_per_hour == 8 * CHIPS["v6e"].dollars


@pytest.mark.parametrize(
    ("text", "told"), [("v7: 1", "unknown TPU 'v7'"), ("v5e: cheap", "not dollars"), ("- 1", "lines")]
)
def test_a_wrong_price_file_is_named(tmp_path, text, told):
    file = tmp_path / "prices.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=f"prices.yaml: .*{told}"):
        prices(file)
