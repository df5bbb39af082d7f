"""Tests that need newer packages than the lowest versions in pyproject.toml, by node id, and why.

`pytest --oldest` leaves them out; a `*` stands for anything.
"""

_RELEASE = "what makes docs and releases goes with the newest packages"
_LONG = "it takes long; shorter tests of the same things run with the lowest versions, too"
NEWEST = {
    "tests/test_package.py::test_the_wheel_is_small_and_holds_all_that_the_package_reads": _RELEASE,
    "tests/test_package.py::test_package_indexes_take_the_distributions": _RELEASE,
    "tests/test_package.py::test_the_installed_wheel_runs_without_the_source_tree": _RELEASE,
    "tests/test_package.py::test_the_installed_tab_hands_out_its_files": _RELEASE,
    "tests/test_docs.py::test_a_page_that_loads_from_another_host_is_no_page_of_the_site": _RELEASE,
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
    **{
        f"tests/test_self_supervised.py::{name}": "lightly is a package of the tests alone"
        for name in (
            "test_training_is_the_same_bit_for_bit[*]",
            "test_the_other_network_and_other_methods",
            "test_a_network_that_does_not_learn_has_the_same_picture",
            "test_epochs_between_looks_and_accumulated_gradients",
            "test_steps_are_seen_until_the_probe_is_there",
            "test_resume",
            "test_a_teacher_that_cannot_be_watched",
            "test_what_is_recorded",
            "test_validation_that_compares_features",
            "test_what_cannot_be_shown_says_so",
            "test_a_collapsed_network_is_said_and_drawn",
        )
    },
    "tests/test_cli_images.py::test_modes_without_transparency_become_rgb[YCbCr]": "Pillow before 13 cannot read back "
    "the TIFF that it writes in YCbCr",
    "tests/test_examples_libraries.py::test_the_example_runs_and_is_explained[lightly_probe]": "lightly is for the "
    "example alone",
    "tests/test_examples_libraries.py::test_the_example_runs_and_is_explained[monai_vit]": "MONAI is for the example "
    "alone",
    "tests/observed/test_bags_of_packages.py::*": "MONAI and torchmil are packages of the tests alone",
    "tests/test_examples_notebooks.py::test_the_notebook_runs[*]": "what runs notebooks is not in that environment",
    "tests/test_readme.py::test_each_command_and_each_line_of_code_runs": "TensorBoard 2.12 wants an older setuptools "
    "than the one that builds this package",
    **{
        f"tests/test_segmentation.py::{test}": "a package that is only tried is not among the oldest"
        for test in (
            "test_maps_are_those_of_the_mean_logit[unet*]",
            "test_maps_are_those_of_the_mean_logit[swin unetr]",
            "test_the_last_stage_of_the_encoder_is_found_and_a_change_is_in_its_cell[unet*]",
            "test_the_last_stage_of_the_encoder_is_found_and_a_change_is_in_its_cell[swin unetr*]",
            "test_what_reads_pixels_is_seen[*DiceLoss*]",
            "test_painting_over_what_a_map_points_at_changes_the_answer[swin_unetr-*]",
            "test_training_is_the_same_bit_for_bit[swin unetr]",
        )
    },
    **{
        f"tests/test_cli_libraries.py::{test}": "open_clip goes with newer torch and timm"
        for test in (
            "test_open_clip_from_a_checkpoint",
            "test_open_clip_knows_no_such_name",
            "test_open_clip_with_texts_of_a_file_that_changed",
        )
    },
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
            "test_what_is_made_for_images_is_refused",
            "test_a_score_of_a_volume_that_is_made_for_a_volume",
        )
    },
    "tests/observed/test_volume_segmentation.py::*": "MONAI goes with newer torch",
    "tests/test_convolutional.py::test_networks_of_volumes[densenet*]": "MONAI goes with newer torch",
    "tests/test_convolutional.py::*mambaout*": "a model that came to timm later",
    "tests/test_convolutional.py::*selective kernels*": "timm 1.0.3 takes no number of layers for it",
    "tests/test_public_api.py::*": "names and defaults are the same with all versions",
    "tests/test_faults_limits.py::test_a_thousand_looks_leak_nothing": _LONG,
    "tests/test_cohort.py::test_no_validation_passes_by_which_a_tenth_of_the_time_is_overspent[*]": _LONG,
    "tests/test_segmentation.py::test_painting_over_what_a_map_points_at_changes_the_answer[*]": _LONG,
    "tests/test_detection.py::test_painting_over_what_a_map_points_at_changes_the_answer[*]": _LONG,
    "tests/observed/test_bands.py::test_a_mask_of_a_scene": "a package that is only tried is not among the oldest",
}
