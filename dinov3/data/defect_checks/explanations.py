"""What each finding of a check means and what to do about it, in English and Chinese."""

from __future__ import annotations

from typing import NamedTuple

Text = tuple[str, str]  # English, Chinese


class Explanation(NamedTuple):
    """Of one check."""

    chinese_name: str  # the English one is the check's own
    meaning: Text
    remedy: Text


# By the name of the check.
EXPLANATIONS: dict[str, Explanation] = {
    "unreadable_image": Explanation(
        "图像无法读取",
        (
            "The image file is missing, empty, truncated or no image. Training shows a black picture in its place and "
            "counts it for nothing.",
            "图像文件缺失、为空、不完整，或者不是图像。训练时以黑色图像代替，且不计入任何结果。",
        ),
        (
            "Copy the file again from its source, or remove its row. --fix removes the row.",
            "从来源重新复制该文件，或删除对应的行。--fix 会删除该行。",
        ),
    ),
    "unreadable_mask": Explanation(
        "掩码无法读取",
        (
            "The mask file is missing or broken, or not a palette or grey picture of class indices. Training cannot "
            "use the image at all.",
            "掩码文件缺失或损坏，或者不是由类别编号组成的调色板图或灰度图。训练时完全无法使用该图像。",
        ),
        (
            "Export the mask again. --fix converts what can be decoded, and drops other masks, so that the image "
            "trains the class alone.",
            "重新导出掩码。--fix 会转换能够解码的掩码，其余的则去掉，图像只用于训练类别。",
        ),
    ),
    "size_mismatch": Explanation(
        "尺寸不一致",
        (
            "Image and mask differ in size, so that training cannot lay one over the other and skips both.",
            "图像与掩码的尺寸不同，训练时无法对应，两者都会被跳过。",
        ),
        (
            "Look whether they belong together. --fix resizes masks of the same shape to the nearest pixel, and drops "
            "those of another shape.",
            "确认两者是否属于同一张图。--fix 会按最近邻缩放长宽比相同的掩码，去掉长宽比不同的掩码。",
        ),
    ),
    "mask_values": Explanation(
        "掩码取值异常",
        (
            "The mask holds values that are no class and not 255 (ignored): usually the grey noise of a JPEG, soft "
            "edges of a drawing program, or the indices of another tool.",
            "掩码中含有既不是类别、也不是 255（忽略）的值：通常是 JPEG 的灰度噪声、绘图软件的柔化边缘，"
            "或其他工具的编号。",
        ),
        (
            "Save masks as PNG without smoothing. --fix cuts greys at half; where some values are classes, it sets the "
            "others to ignored.",
            "请将掩码存为 PNG，不要平滑。--fix 以中间灰度为界二值化；如果部分值是类别，则把其余的值设为忽略。",
        ),
    ),
    "ignored_mask": Explanation(
        "掩码全部被忽略",
        (
            "The mask holds 0 and 255 alone, as black and white pictures do. In a dataset 255 means 'ignored', so "
            "training would see no defect in it, without a word.",
            "掩码只含 0 和 255，像普通黑白图。在数据集中 255 表示“忽略”，训练时会在毫无提示的情况下看不到任何缺陷。",
        ),
        (
            "--fix turns 255 into the class of the image. If all of the defect is to be ignored, remove the mask "
            "instead.",
            "--fix 会把 255 改为该图像的类别。如果整个缺陷确实应当忽略，请去掉该掩码。",
        ),
    ),
    "inverted_mask": Explanation(
        "掩码可能反转",
        (
            "The defect covers nearly the whole image: black and white may be the wrong way round.",
            "缺陷几乎覆盖整张图像：黑白可能颠倒了。",
        ),
        (
            "Look at the outline; invert the mask where it is drawn around the background.",
            "查看轮廓；如果轮廓画在背景周围，请把掩码反转。",
        ),
    ),
    "empty_defect_mask": Explanation(
        "缺陷图像的掩码为空",
        (
            "A defect image whose mask shows no defect. It teaches that its defect is background.",
            "图像有缺陷，掩码却没有标出缺陷，会让模型把缺陷学成背景。",
        ),
        (
            "Draw the defect; or empty the row's mask in manifest.csv, so that it trains the class alone; or correct "
            "the label.",
            "画出缺陷；或在 manifest.csv 中清空该行的掩码，使其只用于训练类别；或更正标签。",
        ),
    ),
    "nonempty_normal_mask": Explanation(
        "正常图像的掩码非空",
        (
            "A normal image whose mask shows a defect: one of the two is wrong.",
            "图像标为正常，掩码却标出缺陷：两者必有一错。",
        ),
        (
            "Correct the label, or empty the row's mask in manifest.csv.",
            "更正标签，或在 manifest.csv 中清空该行的掩码。",
        ),
    ),
    "missing_mask": Explanation(
        "缺少掩码",
        (
            "Defect images without a mask train the class alone, not where the defect is.",
            "没有掩码的缺陷图像只训练类别，不训练缺陷的位置。",
        ),
        (
            "Fine, if meant so. Masks for some of them help most where defects are small.",
            "如果是有意为之，则无需处理。缺陷较小时，为其中一部分补画掩码最有帮助。",
        ),
    ),
    "specks": Explanation(
        "微小斑点",
        (
            "Regions of a few pixels: slips of the pen, or noise. They are counted as defects and cannot be learnt.",
            "只有几个像素的区域：标注时的误触或噪声。它们会被算作缺陷，却无法学会。",
        ),
        (
            "--fix drops them where a larger region remains. A mask of specks alone is left for you to judge.",
            "如果还有更大的区域，--fix 会去掉这些斑点。只有斑点的掩码由您判断。",
        ),
    ),
    "unused_range": Explanation(
        "亮度范围不符",
        (
            "16-bit files of a camera with 10, 12 or 14 bits are read as nearly black, or brighter values than white "
            "are in them.",
            "相机实际为 10、12 或 14 位，但文件为 16 位：读出的图像几乎全黑；或者像素值超过了白色。",
        ),
        (
            "Organise again, which finds the range; or set white_level in dataset.json to 1023, 4095 or 16383 and "
            "train anew.",
            "重新整理数据集以确定范围；或将 dataset.json 的 white_level 设为 1023、4095 或 16383，再重新训练。",
        ),
    ),
    "blank_image": Explanation(
        "空白图像",
        (
            "All pixels are alike, as when the light was off or the lens covered.",
            "所有像素都相同，例如灯未打开或镜头被遮挡。",
        ),
        ("Take the photograph again, or remove the row.", "重新拍摄，或删除该行。"),
    ),
    "split_leak": Explanation(
        "划分泄漏",
        (
            "Images of one part, or the very same picture, in more than one split: the model is examined on what it "
            "has learnt, and scores come out too high.",
            "同一工件的图像或同一张图片出现在多个划分中：模型在学过的内容上接受测试，得分会偏高。",
        ),
        (
            "Assign the splits anew with a --group_csv that names the part of each image.",
            "用 --group_csv 说明每张图像属于哪个工件，然后重新划分。",
        ),
    ),
    "label_conflict": Explanation(
        "标签冲突",
        (
            "The same picture under two labels: one of them is wrong, whatever the model answers.",
            "同一张图片有两个标签：无论模型如何回答，总有一个是错的。",
        ),
        ("Decide for one and remove the other row.", "确定其中一个，删除另一行。"),
    ),
    "duplicate_image": Explanation(
        "重复图像",
        (
            "The same picture more than once, pixel by pixel. It weighs double in training and in scores.",
            "同一张图片出现多次，像素完全相同，在训练和评分中被重复计算。",
        ),
        (
            "--fix keeps one of those in the same split and of the same label, if their masks agree.",
            "划分与标签相同且掩码一致时，--fix 只保留其中一张。",
        ),
    ),
    "orphan_mask": Explanation(
        "无主掩码",
        (
            "Files in masks/ that no row of manifest.csv names: their images were removed or renamed, or the row "
            "forgot its mask.",
            "masks/ 中有 manifest.csv 未提到的文件：其图像已被删除或改名，或者该行漏写了掩码。",
        ),
        (
            "Name them in the rows of their images, or delete them. --fix does not copy them.",
            "在对应图像的行中写上它们，或者删除。--fix 不会复制它们。",
        ),
    ),
    "orphan_image": Explanation(
        "无主图像",
        (
            "Files in images/ that no row of manifest.csv names; training never sees them.",
            "images/ 中有 manifest.csv 未提到的文件，训练时不会用到。",
        ),
        (
            "Add a row for each, or delete them. --fix does not copy them.",
            "为每个文件添加一行，或者删除。--fix 不会复制它们。",
        ),
    ),
    "odd_size": Explanation(
        "尺寸异常",
        (
            "Images of another size than the rest: another camera, a crop, or a screenshot.",
            "与其他图像尺寸不同：可能来自另一台相机、裁剪或截图。",
        ),
        (
            "Look whether they belong here. All images are resized to one size, so the defects in these differ in "
            "scale.",
            "确认它们是否属于此数据集。所有图像都会缩放到同一尺寸，因此其中缺陷的比例会不同。",
        ),
    ),
    "odd_aspect": Explanation(
        "长宽比异常",
        (
            "Images of another shape than the rest. Resizing to one size distorts them differently.",
            "与其他图像长宽比不同，缩放到同一尺寸时变形不同。",
        ),
        ("Crop them like the others, or remove them.", "按其他图像的方式裁剪，或者删除。"),
    ),
    "odd_channels": Explanation(
        "通道异常",
        (
            "Grey images among colour ones, the reverse, or images with transparency. If one class has more of them, "
            "the model learns that instead of the defect.",
            "彩色图像中混有灰度图像（或相反），或图像带有透明通道。如果某一类别中较多，模型会学到这一点而不是缺陷。",
        ),
        (
            "Record all images with the same settings, or convert them all alike.",
            "用相同的设置采集所有图像，或统一转换。",
        ),
    ),
    "odd_bit_depth": Explanation(
        "位深异常",
        (
            "Images of another bit depth than the rest; 16-bit images look dark if the camera fills 10 or 12 bits.",
            "与其他图像位深不同；如果相机只用 10 或 12 位，16 位图像会显得很暗。",
        ),
        ("Export all images alike.", "以相同方式导出所有图像。"),
    ),
    "odd_brightness": Explanation(
        "亮度异常",
        ("Much darker or brighter than the rest.", "比其他图像暗得多或亮得多。"),
        (
            "Look whether light or exposure failed. If the line really varies so much, keep them.",
            "检查光源或曝光是否出错。如果产线亮度确实变化这么大，则予以保留。",
        ),
    ),
    "small_defects": Explanation(
        "缺陷过小",
        (
            "Defects that are smaller than what the network sees as one patch, once the image is resized.",
            "图像缩放后，缺陷小于网络的一个图块。",
        ),
        (
            "Train with a larger --image_size, or cut the images into tiles of the size named here.",
            "用更大的 --image_size 训练，或按此处给出的大小切片。",
        ),
    ),
    "class_imbalance": Explanation(
        "类别不均衡",
        ("Classes with less than a tenth of the images of the largest one.", "图像数不足最大类别十分之一的类别。"),
        (
            "Collect more of them; training can weigh classes, but not invent their variety.",
            "收集更多此类图像；训练可以给类别加权，但无法凭空增加多样性。",
        ),
    ),
    "missing_class": Explanation(
        "类别缺失",
        (
            "A split without any image of a class: its scores say nothing about that class.",
            "某个划分中没有某一类别的图像：其得分无法反映该类别。",
        ),
        (
            "Collect more parts of that class, or give that split a larger share.",
            "收集更多该类别的工件，或增大该划分的比例。",
        ),
    ),
}
