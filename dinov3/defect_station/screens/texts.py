"""What the station's pages and their scripts say, in English and in Chinese."""

from __future__ import annotations

from dinov3.inference.reasons import VERDICT_NAMES

SIGNS = {"accept": "✓", "review": "?", "reject": "✕", "error": "!"}
# By verdict: its sign, and its name in both languages.
VERDICTS = {
    name: (SIGNS[name], *texts) for name, texts in (VERDICT_NAMES | {"error": ("not inspected", "未检测")}).items()
}
DECISIONS = {"accept": ("accepted", "判为合格"), "reject": ("rejected", "判为不合格"), "undo": ("taken back", "已撤销")}

# For scripts, and for attributes
TEXTS = {
    "pages": ("Pages of the station", "工作站页面"),
    "all_models": ("all models", "全部模型"),
    "evidence": ("evidence for a change", "变化的证据"),
    "table_models": ("Table by model", "按模型的表格"),
    "table_classes": ("Table by class", "按类别的表格"),
    "table_days": ("Table by day", "按日期的表格"),
    "kind_all": ("all images", "全部"),
    "kind_review": ("for review", "复检"),
    "kind_reject": ("rejected", "不合格"),
    "kind_error": ("not inspected", "未检测"),
    "no_answer": (
        "The server does not answer. What is shown is from {time}.",
        "服务器没有响应。当前显示的是 {time} 的内容。",
    ),
    "live": ("live", "实时"),
    "paused": ("paused", "已暂停"),
    "pause": ("Pause", "暂停"),
    "go_on": ("Go on", "继续"),
    "wrong_key": ("The server does not know this key.", "服务器不认识此密钥。"),
    "key": ("Key", "密钥"),
    "comment": ("Comment, goes with the next decision", "备注，随下一次判定保存"),
    "accept": ("accepted", "已判为合格"),
    "reject": ("rejected", "已判为不合格"),
    "next": ("{what}: {name}. Next image: {next}", "{what}：{name}。下一张：{next}"),
    "last": ("{what}: {name}. No more images.", "{what}：{name}。没有更多图像。"),
    "undone": ("Taken back: {name}", "已撤销：{name}"),
    "nothing_to_undo": ("There is nothing to take back.", "没有可撤销的判定。"),
    "put_off": ("Put off: {name}", "已推后：{name}"),
    "conflict": (
        "{person} was faster on {name}: {decision}. Nothing is lost; here is the next image.",
        "{person} 已抢先判定 {name}：{decision}。未丢失任何内容，请看下一张。",
    ),
    "gone": ("{name} is no longer in the database.", "{name} 已不在数据库中。"),
    "not_stored": (
        "Not stored: the server does not answer. {name} is shown again; decide once more.",
        "未保存：服务器没有响应。{name} 已重新显示，请再次判定。",
    ),
    "refused": ("Not stored: {error}", "未保存：{error}"),
    "of_others": (
        "Nothing is left for you: {n} image(s) are with colleagues just now.",
        "暂无待复检图像：{n} 张正由同事处理。",
    ),
    "all_done": (
        "All doubtful images are decided. New ones appear here.",
        "所有存疑图像均已判定，新的图像会自动出现。",
    ),
    "progress": ("{done} decided by you now, {left} left", "本次已判定 {done} 张，剩余 {left} 张"),
    "zoom_in": ("Zoom", "放大"),
    "zoom_out": ("Whole image", "整图"),
    "mask_off": ("Hide mask", "隐藏掩码"),
    "mask_on": ("Show mask", "显示掩码"),
}
