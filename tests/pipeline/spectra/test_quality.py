from __future__ import annotations

import numpy as np

from pipeline.spectra.quality import MEANINGS, Quality, flag_attributes


def test_every_bit_is_one_bit_and_the_bits_are_contiguous():
    assert [bit.value for bit in Quality] == [1 << i for i in range(len(Quality))]


def test_bits_keep_the_values_of_the_stored_format():
    stored = (
        "not_processed no_file bad_file wrong_file fiber_masked truncated off_grid bad_pixels few_pixels no_pixels "
        "no_redshift no_norm negative_norm zero_flux out_of_range no_overlap not_finite amplitude_fitted "
        "negative_amplitude needs_redshift out_of_domain"
    )
    assert flag_attributes()["flag_meanings"] == stored


def test_all_bits_fit_an_unsigned_32_bit_number():
    assert 0 < sum(Quality) < 2**32


def test_every_bit_has_a_meaning():
    assert list(MEANINGS) == list(Quality)
    assert all(meaning.endswith(".") for meaning in MEANINGS.values())
    assert MEANINGS[Quality.NO_FILE] == "The source has no file for this target."
    assert MEANINGS[Quality.NEGATIVE_AMPLITUDE].startswith("The fitted amplitude is not positive")


def test_a_spectrum_that_was_never_written_is_unusable():
    assert Quality.NOT_PROCESSED.value == 1
    assert Quality.NOT_PROCESSED & Quality.UNUSABLE


def test_remarks_on_a_usable_spectrum_do_not_make_it_unusable():
    remarks = Quality.FIBER_MASKED | Quality.TRUNCATED | Quality.NO_NORM | Quality.NEGATIVE_NORM | Quality.FEW_PIXELS
    assert not (remarks | Quality.NO_REDSHIFT | Quality.OUT_OF_DOMAIN) & Quality.UNUSABLE
    assert Quality.NEEDS_REDSHIFT & Quality.UNUSABLE


def test_describe_names_the_bits_in_order():
    assert Quality.describe(0) == "GOOD"
    assert Quality.describe(Quality.NO_NORM | Quality.TRUNCATED) == "TRUNCATED|NO_NORM"
    assert Quality.describe(np.uint32(2)) == "NO_FILE"
    assert Quality.describe(1 << 31 | 1) == "NOT_PROCESSED|0x80000000"


def test_flag_attributes_follow_cf():
    attributes = flag_attributes()
    masks, meanings = attributes["flag_masks"], attributes["flag_meanings"]
    assert isinstance(masks, np.ndarray)
    assert masks.dtype == np.uint32
    assert isinstance(meanings, str)
    assert len(masks) == len(meanings.split())
    assert Quality[meanings.split()[4].upper()] == masks[4]
