"""The loop: ragged batches, buckets, seeds, stops, several texts a prompt, streams, compilers, ring caches."""

from __future__ import annotations

import numpy as np
import pytest
from numpy_decoding import best_beam, contrastive, diverse_beams, next_log_probs

from aillm_tf.generation import GenerationOptions
from aillm_tf.generation.generator import Generator

RANDOM = np.random.default_rng(3)
PROMPTS = [RANDOM.integers(1, 30, n).tolist() for n in (5, 2, 9, 3)]
NEW = 8
SAMPLED = GenerationOptions(max_new_tokens=NEW, temperature=1.0, top_k=20, seed=7)
BEAMS = GenerationOptions(max_new_tokens=NEW, num_beams=3)
STRATEGIES = {
    "greedy": GenerationOptions(max_new_tokens=NEW),
    "sampled": SAMPLED,
    "penalties": GenerationOptions(max_new_tokens=NEW, repetition_penalty=1.4, no_repeat_ngram_size=2),
    "beams": BEAMS,
    "contrastive": GenerationOptions(max_new_tokens=NEW, penalty_alpha=0.6, top_k=4),
}


def slow(*values):
    """Values of a test that makes several graphs."""
    return pytest.param(*values, marks=pytest.mark.slow)


def rows(found) -> list[list[int]]:
    return [row.tolist() for row in found.tokens]


@pytest.mark.parametrize("name", [slow("penalties"), slow("sampled"), "greedy", "beams", slow("contrastive")])
def test_prompts_of_different_length_give_in_a_batch_what_each_gives_alone(name, generator):
    together = generator.generate(PROMPTS, STRATEGIES[name])
    alone = [generator.generate([prompt], STRATEGIES[name]) for prompt in PROMPTS]
    assert rows(together) == [row for one in alone for row in rows(one)]
    np.testing.assert_allclose(together.scores, np.concatenate([one.scores for one in alone]), atol=1e-5)


def test_greedy_tokens_are_the_likeliest_without_a_cache(decoder, generator):
    ids = list(PROMPTS[0])
    for _ in range(NEW):
        ids.append(int(next_log_probs(decoder, ids).argmax()))
    assert rows(generator.generate(PROMPTS[:1], STRATEGIES["greedy"])) == [ids[len(PROMPTS[0]) :]]


def test_log_probabilities_are_those_without_a_cache(decoder, generator):
    found = generator.generate(PROMPTS[:1], SAMPLED)
    ids, expected = list(PROMPTS[0]), []
    for token in rows(found)[0]:
        expected.append(next_log_probs(decoder, ids)[token])
        ids.append(token)
    np.testing.assert_allclose(found.log_probs[0], expected, atol=1e-4)
    np.testing.assert_allclose(found.scores, np.mean(expected), atol=1e-4)


def test_beams_are_those_of_a_search_without_a_cache(decoder, generator):
    assert rows(generator.generate(PROMPTS[:1], BEAMS)) == [best_beam(decoder, PROMPTS[0], NEW, 3)]


@pytest.mark.slow
def test_diverse_beams_follow_the_paper(decoder, generator):
    options = GenerationOptions(
        max_new_tokens=5, num_beams=4, num_beam_groups=2, diversity_penalty=1.5, num_return_sequences=4
    )
    assert rows(generator.generate(PROMPTS[:1], options)) == diverse_beams(decoder, PROMPTS[0], 5, 2, 2, 1.5)


def test_contrastive_search_follows_the_paper(decoder, generator):
    found = generator.generate(PROMPTS[:1], STRATEGIES["contrastive"])
    assert rows(found) == [contrastive(decoder, PROMPTS[0], NEW, 4, 0.6)]


def test_nothing_is_compiled_after_the_first_call_of_a_bucket(decoder):
    generator = Generator(decoder, compiler="graph")
    generator.generate([[1, 2, 3]], GenerationOptions(max_new_tokens=10, temperature=0.9, top_p=0.9))
    before = generator.compiled
    assert before == 2  # the prompt and the steps
    generator.generate([[4] * 6], GenerationOptions(max_new_tokens=9, temperature=0.3, top_p=0.5, seed=4))
    list(generator.stream([[7] * 2], GenerationOptions(max_new_tokens=5, temperature=1.1, top_p=0.7)))
    assert generator.compiled == before
    generator.generate([[4] * 17], GenerationOptions(max_new_tokens=10, temperature=0.9, top_p=0.9))
    assert generator.compiled == before + 2


@pytest.mark.parametrize(
    ("compiler", "name"), [("blocks", "sampled"), slow("blocks", "beams"), slow("xla", "sampled"), slow("xla", "beams")]
)
def test_every_compiler_gives_the_same_tokens(compiler, name, decoder, generator):
    found = Generator(decoder, compiler=compiler).generate(PROMPTS[:2], STRATEGIES[name])
    assert rows(found) == rows(generator.generate(PROMPTS[:2], STRATEGIES[name]))


@pytest.mark.slow
def test_bfloat16_copies_follow_the_weights(make_backbone):
    backbone = make_backbone(dtype="mixed_bfloat16", scale=0.2)
    generator = Generator(backbone, compiler="blocks")
    generator.generate(PROMPTS[:1], STRATEGIES["greedy"])
    other = make_backbone(dtype="mixed_bfloat16", scale=0.2, seed=1)
    for mine, theirs in zip(backbone.variables, other.variables, strict=True):
        mine.assign(theirs)
    found = generator.generate(PROMPTS[:1], STRATEGIES["greedy"])
    exact = Generator(make_backbone(scale=0.2, seed=1), compiler="graph").generate(PROMPTS[:1], STRATEGIES["greedy"])
    np.testing.assert_allclose(found.scores, exact.scores, atol=0.02)


def test_a_seed_gives_the_same_text_again_and_another_seed_another(generator):
    first, again = (rows(generator.generate(PROMPTS, SAMPLED)) for _ in range(2))
    assert first == again != rows(generator.generate(PROMPTS, SAMPLED.replace(seed=8)))


def test_several_texts_of_a_prompt_differ_and_follow_each_other(generator):
    found = rows(generator.generate(PROMPTS[:2], SAMPLED.replace(num_return_sequences=3)))
    assert len(found) == 6 and len({tuple(row) for row in found[:3]}) == 3
    assert found[3:] == rows(generator.generate(PROMPTS[1::-1], SAMPLED.replace(num_return_sequences=3)))[:3]


def test_a_text_ends_with_a_stop_id(generator):
    free = rows(generator.generate(PROMPTS, STRATEGIES["greedy"]))
    stop = free[0][3]
    found = rows(generator.generate(PROMPTS, STRATEGIES["greedy"].replace(stop_ids=(stop,))))
    assert found == [row[: row.index(stop) + 1] if stop in row else row for row in free]


def test_no_text_ends_before_its_least_length(generator):
    stop = rows(generator.generate(PROMPTS[:1], STRATEGIES["greedy"]))[0][0]
    found = generator.generate(PROMPTS, GenerationOptions(max_new_tokens=NEW, min_new_tokens=5, stop_ids=(stop,)))
    assert min(map(len, found.tokens)) >= 5


def test_a_stream_gives_the_tokens_one_by_one(generator):
    stop = rows(generator.generate(PROMPTS, STRATEGIES["greedy"]))[0][4]
    options = STRATEGIES["greedy"].replace(stop_ids=(stop,))
    steps = np.stack(list(generator.stream(PROMPTS, options)), axis=1)
    assert [row[row >= 0].tolist() for row in steps] == rows(generator.generate(PROMPTS, options))


def test_prompts_of_one_bucket_share_a_graph(decoder):
    generator = Generator(decoder, compiler="graph")
    for length in (9, 16):
        generator.start([[1] * length], STRATEGIES["greedy"])
    assert generator.compiled == 1


def test_a_text_ends_where_the_positions_do(make_backbone):
    backbone = make_backbone(position="learned", max_length=12)
    found = Generator(backbone, compiler="graph").generate([[1, 2, 3], [4] * 12], GenerationOptions(max_new_tokens=20))
    assert [len(row) for row in found.tokens] == [10, 1]  # the last token needs no position


def test_a_prompt_longer_than_the_positions_is_refused(make_backbone):
    backbone = make_backbone(position="learned", max_length=12)
    with pytest.raises(ValueError, match="13 tokens is longer than the model's 12 positions"):
        Generator(backbone).generate([[1] * 13])


def test_a_prompt_without_tokens_is_refused(generator):
    with pytest.raises(ValueError, match="every prompt needs a token"):
        generator.generate([[1], []])


def test_as_many_prompts_as_sources_are_needed(make_backbone):
    backbone = make_backbone(decoder_layers=1)
    with pytest.raises(ValueError, match="2 prompts for 1 sources"):
        Generator(backbone).generate([[1], [2]], source={"token_ids": np.array([[1, 2]])})


@pytest.mark.slow
def test_contrastive_search_among_more_tokens_than_there_are_is_among_all(generator):
    options = STRATEGIES["contrastive"]
    more, every = (generator.generate(PROMPTS[:1], options.replace(top_k=k)) for k in (1000, 30))
    assert rows(more) == rows(every)


def test_a_ring_of_slots_gives_what_a_whole_cache_gives(make_backbone, monkeypatch):
    from aillm_tf.generation import loop

    backbone = make_backbone(window=6)
    long = [RANDOM.integers(1, 30, n).tolist() for n in (45, 2, 30)]
    options = GenerationOptions(max_new_tokens=20)
    whole = rows(Generator(backbone, compiler="graph").generate(long, options))
    monkeypatch.setattr(loop, "RING_CHUNK", 8)
    ring = Generator(backbone, compiler="graph")
    state, _ = ring.start(long, options)
    assert state.cache[0]["self"]["key"].shape[2] == 24
    assert rows(ring.generate(long, options)) == whole


@pytest.mark.slow
def test_a_ring_is_written_round_by_programs_too(make_backbone, monkeypatch):
    from aillm_tf.generation import loop

    backbone, options = make_backbone(window=6), GenerationOptions(max_new_tokens=30)
    whole = rows(Generator(backbone, compiler="graph").generate([[5, 6]], options))
    monkeypatch.setattr(loop, "RING_CHUNK", 4)
    assert rows(Generator(backbone, compiler="blocks").generate([[5, 6]], options)) == whole


def test_a_conversation_goes_on_from_its_cache(generator):
    options = SAMPLED.replace(stop_ids=())
    state, _ = generator.start(PROMPTS[:1], options)
    state = generator.advance(state, options, NEW)
    said = [*PROMPTS[0], *generator.read(state, 1, options).tokens[0].tolist()]
    for turn in ([*said, 7, 8, 9], [*said[:9], 3, 4]):  # goes on, and takes back what was said
        again, _ = generator.start([turn], options, past=state)
        again = generator.advance(again, options, NEW)
        assert rows(generator.read(again, 1, options)) == rows(generator.generate([turn], options))
