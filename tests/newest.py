"""Tests that need newer packages than the lowest versions in pyproject.toml, by node id, and why.

`pytest --oldest` leaves them out; a `*` stands for anything.
"""

NEWEST = {
    "tests/architectures/test_sample.py::test_timm[vit_dpwee_patch16_reg1_gap_256]": "a model that came to timm later",
    "tests/test_extent.py::test_what_a_grid_covers[swin-200-32-7]": "Swin of timm 1.0.3 pads no image",
    "tests/test_extent.py::test_what_a_grid_covers[swin-196-32-7]": "Swin of timm 1.0.3 pads no image",
    "tests/test_extent.py::test_a_change_is_shown_where_it_is[*-swin-200-32]": "Swin of timm 1.0.3 pads no image",
    "tests/test_training_models.py::test_models[dinov3]": "a model that came to timm later",
    "tests/test_grad_cam.py::test_sess_whose_patches_begin_graphs_of_their_own": "grad-cam 1.5.5 has no SESS",
    "tests/test_methods_one_pass.py::test_agrees_with_grad_cam[*-segeigencam-*]": "grad-cam 1.5.5 has no SegEigenCAM",
    "tests/test_methods_one_pass.py::test_refinecam_agrees_with_grad_cam[*]": "grad-cam 1.5.5 has no RefineCAM",
    "tests/test_training_loops.py::test_maps_are_those_of_averaged_weights[*]": "EMAWeightAveraging came to Lightning "
    "after 2.5",
    "tests/test_training_ranks.py::test_the_ranks_differ": "torch 2.6 runs `fully_shard` on GPUs only",
    "tests/test_training_zoo_tensors.py::test_quantized_backbones[? bits]": "torchao goes with newer torch",
    "tests/test_training_zoo_tensors.py::test_quantized_backbones[float8]": "torchao goes with newer torch",
    "tests/test_training_zoo_tensors.py::test_weights_that_let_no_gradient_through_are_refused": "torchao goes with "
    "newer torch",
    "tests/test_training_zoo_tensors.py::test_8_bit_weights_learn_fake_quantized": "torchao goes with newer torch",
    "tests/test_block_search.py::TestParametersWithoutValues::test_torchao[*]": "torchao goes with newer torch",
    "tests/test_training_zoo_loops.py::test_stateful_loaders": "torchdata goes with newer torch",
    "tests/test_training_zoo_loops.py::test_a_learning_rate_is_found[*]": "after its search Lightning 2.5 begins in "
    "the middle of the first epoch, and leaves out the validation of it",
    "tests/test_training_zoo_loops.py::test_a_batch_size_is_found[*]": "Lightning 2.5 doubles once more after its last "
    "trial",
    "tests/test_cli_images.py::test_modes_without_transparency_become_rgb[YCbCr]": "Pillow before 13 cannot read back "
    "the TIFF that it writes in YCbCr",
    **{
        f"tests/observed/test_image_and_text.py::{test}[open_clip, *]": "open_clip goes with newer torch and timm"
        for test in (
            "test_the_similarity_with_the_own_text_is_explained",
            "test_training_is_the_same_bit_for_bit",
        )
    },
    **{
        f"tests/observed/test_volumes.py::{test}": "MONAI goes with newer torch"
        for test in (
            "test_a_change_in_one_cell_of_one_plane_is_found_there[MONAI ViT]",
            "test_maps_are_those_of_a_slow_reference[MONAI ViT]",
            "test_whole_depth_relevance_adds_up_as_that_of_images_does[MONAI ViT]",
            "test_the_hottest_cell_is_the_cube[MONAI ViT]",
            "test_training_is_the_same_bit_for_bit[MONAI ViT]",
            "test_it_is_said_what_is_shown",
            "test_tiles_show_the_slice_with_most_evidence",
            "test_what_is_made_for_images_is_refused",
            "test_a_score_of_a_volume_that_is_made_for_a_volume",
        )
    },
}
