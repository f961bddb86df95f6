"""Prompts: the data and the average."""

import subprocess
import sys

import numpy as np

from reco.method.prompts import BARE, IMAGENET_TEMPLATES, TEMPLATES, average, concept_prompts


def test_the_85_prompts_of_the_paper() -> None:
    assert len(IMAGENET_TEMPLATES) == 80
    assert len(set(TEMPLATES)) == len(TEMPLATES) == 85
    assert all(template.count("{}") == 1 for template in TEMPLATES)


def test_imagenet_templates_are_those_that_clip_published() -> None:
    from open_clip import OPENAI_IMAGENET_TEMPLATES as PUBLISHED

    assert [fill("cat") for fill in PUBLISHED] == concept_prompts("cat", IMAGENET_TEMPLATES)


def test_prompts_go_name_by_name_and_keep_braces() -> None:
    assert concept_prompts(["a{0}", "b"], ["x {}", "y {}"]) == ["x a{0}", "y a{0}", "x b", "y b"]
    assert concept_prompts("owl", BARE) == ["owl"]
    assert len(concept_prompts(["owl", "night bird"])) == 170


def test_average_normalises_before_and_after() -> None:
    mean = average(np.array([[10.0, 0.0], [0.0, 0.1]], np.float32))
    assert mean.dtype == np.float32
    np.testing.assert_allclose(mean, [0.5**0.5, 0.5**0.5], atol=1e-7)
    np.testing.assert_array_equal(average(np.array([[1.0, 0.0], [-1.0, 0.0]])), [0, 0])


def test_prompts_and_the_protocol_import_no_network_library() -> None:
    code = (
        "import sys, reco.method.prompts, reco.models; "
        "print(sorted({'torch', 'timm', 'open_clip'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
