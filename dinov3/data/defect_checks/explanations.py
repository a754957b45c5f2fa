"""The words and the looks of the check sheet: what each finding means and what to do about it."""

from __future__ import annotations

# name of the check: (what it means, what to do)
EXPLANATIONS: dict[str, tuple[str, str]] = {
    "unreadable_image": (
        "The image file is missing, empty, truncated or no image. Training shows a black picture in its place and "
        "counts it for nothing.",
        "Copy the file again from its source, or remove its row. --fix leaves the row out.",
    ),
    "unreadable_mask": (
        "The mask file is missing or broken, or not a palette or grey picture of class indices. Training cannot use "
        "the image at all.",
        "Export the mask again. --fix converts what can be decoded, and leaves other masks out, so that the image "
        "trains the class alone.",
    ),
    "size_mismatch": (
        "Image and mask differ in size, so that training cannot lay one over the other and leaves both out.",
        "Look whether they belong together. --fix resizes masks of the same shape to the nearest pixel, and leaves "
        "out those of another shape.",
    ),
    "mask_values": (
        "The mask holds values that are no class and not 255 (ignored): usually the grey noise of a JPEG, soft edges "
        "of a drawing program, or the indices of another tool.",
        "Save masks as PNG without smoothing. --fix cuts greys at half; where some values are classes, it sets the "
        "others to ignored.",
    ),
    "ignored_mask": (
        "The mask holds 0 and 255 alone, as black and white pictures do. In a dataset 255 means 'ignored', so training "
        "would see no defect in it, without a word.",
        "--fix turns 255 into the class of the image. If all of the defect is to be ignored, remove the mask instead.",
    ),
    "inverted_mask": (
        "The defect covers nearly the whole image: black and white may be the wrong way round.",
        "Look at the outline; invert the mask where it is drawn around the background.",
    ),
    "empty_defect_mask": (
        "A defect image whose mask shows no defect. It teaches that its defect is background.",
        "Draw the defect; or empty the row's mask in manifest.csv, so that it trains the class alone; or correct the "
        "label.",
    ),
    "nonempty_normal_mask": (
        "A normal image whose mask shows a defect: one of the two is wrong.",
        "Correct the label, or empty the row's mask in manifest.csv.",
    ),
    "missing_mask": (
        "Defect images without a mask train the class alone, not where the defect is.",
        "Fine, if meant so. Masks for some of them help most where defects are small.",
    ),
    "specks": (
        "Regions of a few pixels: slips of the pen, or noise. They are counted as defects and cannot be learnt.",
        "--fix drops them where a larger region remains. A mask of specks alone is left for you to judge.",
    ),
    "blank_image": (
        "All pixels are alike, as when the light was off or the lens covered.",
        "Take the photograph again, or remove the row.",
    ),
    "split_leak": (
        "Images of one part, or the very same picture, in more than one split: the model is examined on what it has "
        "learnt, and scores come out too high.",
        "Deal the splits anew with a --group_csv that names the part of each image.",
    ),
    "label_conflict": (
        "The same picture under two labels: one of them is wrong, whatever the model answers.",
        "Decide for one and remove the other row.",
    ),
    "duplicate_image": (
        "The same picture more than once, pixel by pixel. It weighs double in training and in scores.",
        "--fix keeps one of those in the same split and of the same label, if their masks agree.",
    ),
    "orphan_mask": (
        "Files in masks/ that no row of manifest.csv names: their images were removed or renamed, or the row forgot "
        "its mask.",
        "Name them in the rows of their images, or delete them. --fix does not copy them.",
    ),
    "orphan_image": (
        "Files in images/ that no row of manifest.csv names; training never sees them.",
        "Add a row for each, or delete them. --fix does not copy them.",
    ),
    "odd_size": (
        "Images of another size than the rest: another camera, a crop, or a screenshot.",
        "Look whether they belong here. All images are resized to one size, so the defects in these differ in scale.",
    ),
    "odd_aspect": (
        "Images of another shape than the rest. Resizing to a square distorts them differently.",
        "Crop them like the others, or remove them.",
    ),
    "odd_channels": (
        "Grey images among colour ones, the reverse, or images with transparency. If one class has more of them, the "
        "model learns that instead of the defect.",
        "Record all images with the same settings, or convert them all alike.",
    ),
    "odd_bit_depth": (
        "Images of another bit depth than the rest; 16-bit images look dark if the camera fills 10 or 12 bits.",
        "Export all images alike.",
    ),
    "odd_brightness": (
        "Much darker or brighter than the rest.",
        "Look whether light or exposure failed. If the line really varies so much, keep them.",
    ),
    "small_defects": (
        "Defects that are smaller than what the network sees as one patch, once the image is resized.",
        "Train with a larger --image_size, or cut the images into tiles of the size named here.",
    ),
    "class_imbalance": (
        "Classes with less than a tenth of the images of the largest one.",
        "Collect more of them; training can weigh classes, but not invent their variety.",
    ),
    "missing_class": (
        "A split without any image of a class: its scores say nothing about that class.",
        "Collect more parts of that class, or give that split a larger share.",
    ),
}

PAGE_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5b6675; --line: #dde2e8; --page: #f5f7f9; --card: #fff;
  --error: #b3261e; --warning: #9a5b00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7ebf0; --soft: #a3adba; --line: #323b47; --page: #14181d;
  --card: #1d232b; --error: #f2877f; --warning: #f0b45a; } }
body { margin: 0 auto; max-width: 84rem; padding: 2rem 1.5rem 4rem; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { margin: 0; font-size: 1.6rem; overflow-wrap: anywhere; }
header p { margin: .2rem 0 1.2rem; color: var(--soft); }
h2 { display: flex; align-items: center; gap: .6rem; margin: 0 0 .4rem; font-size: 1.1rem; }
p { margin: .2rem 0; max-width: 60rem; }
a { color: inherit; }
table { border-collapse: collapse; margin-bottom: 1.5rem; }
td { padding: .2rem 1rem .2rem 0; }
td:last-child { text-align: right; font-variant-numeric: tabular-nums; }
section { margin: 0 0 1rem; padding: 1.1rem 1.3rem; background: var(--card); border: 1px solid var(--line);
  border-radius: 10px; }
.badge { padding: .05rem .55rem; border: 1px solid; border-radius: 99px; font-size: .75rem; font-weight: 600; }
.error { color: var(--error); }
.warning { color: var(--warning); }
.count { margin-left: auto; font-variant-numeric: tabular-nums; color: var(--soft); }
.todo { color: var(--soft); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(210px, 1fr)); gap: 1.1rem; margin-top: .9rem; }
figure { margin: 0; }
figure img { display: block; max-width: 100%; max-height: 220px; border-radius: 6px; }
figcaption { margin-top: .35rem; font-size: .8rem; line-height: 1.35; overflow-wrap: anywhere; }
figcaption b { display: block; font-weight: 600; }
figcaption span { display: block; color: var(--soft); }
.none { display: grid; place-items: center; height: 150px; border: 1px dashed var(--line); border-radius: 6px;
  color: var(--soft); }
"""
