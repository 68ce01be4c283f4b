"""Mistakes in pictures of detections, in what is said where nothing is found, and in videos."""

DRAWING, LOW = "util/pictures/drawing.py", "tools/image_files/low_scores.py"
READING, DETECTION = "tools/video/reading.py", "tools/video/detection.py"
VIDEO = "test_predict_video.py"

MUTANTS = [
    ("captions that are cut at the left and right", DRAWING,
     "left = min(max(x, 0), self.size[0] - width)", "left = x",
     "test_pictures.py::test_captions_lie_inside_of_the_picture"),
    ("the least sure detection on top", DRAWING, "argsort(stable=True)",
     "argsort(descending=True)", "test_pictures.py::test_surer_detections_lie_over_less_sure_ones"),
    ("small images stay small", DRAWING, "SHORT_SIDE, LONG_SIDE = 320", "SHORT_SIDE, LONG_SIDE = 1",
     "test_pictures.py::test_small_images_are_enlarged_by_a_whole_number"),
    ("detections below the threshold look like others", DRAWING, "dashed=not sure", "dashed=False",
     "test_pictures.py::test_detections_below_the_threshold_are_marked"),
    ("a threshold that nothing reaches", LOW, "Context(digits, ROUND_DOWN)", "Context(digits)",
     "test_low_scores.py::test_the_threshold_to_try_is_reached"),
    ("the best few are drawn though others are found", "tools/predict.py", "unsure.clear()", "pass",
     "test_low_scores.py::test_nothing_found_on_some_images"),
    ("a copy without the video's times", "tools/video/writing.py",
     "max(round(seconds / TICK), self._last + 1)", "self._last + 2400",
     f"{VIDEO}::test_a_video_gives_what_its_frames_give"),
    ("videos of phones are turned the other way", READING, "{90: Transpose.ROTATE_90",
     "{90: Transpose.ROTATE_270", f"{VIDEO}::test_a_video_of_a_phone_is_turned_upright"),
    ("red and blue of a camera exchanged", READING, "pixels[:, :, ::-1].copy()", "pixels.copy()",
     f"{VIDEO}::test_a_camera"),
    ("frames before a damage are lost", DETECTION, "    if batch:\n        yield batch\n", "",
     f"{VIDEO}::test_what_is_before_the_damage_is_kept"),
    ("Ctrl-C does not end a video", DETECTION, "if signals.received:", "if False:",
     f"{VIDEO}::test_ctrl_c_leaves_a_video_that_can_be_played"),
]  # fmt: skip
