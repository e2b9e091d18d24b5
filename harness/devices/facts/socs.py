"""Names of systems on a chip: who makes what the device calls by a number or a code name. Data, and one function.

Only names that are certain: an unknown number is shown as the device gives it.
"""

from __future__ import annotations

import re

# Code names of Android's `ro.board.platform` that stand for one chip.
CHIP_OF_PLATFORM = {
    "msm8916": "MSM8916", "msm8953": "MSM8953", "msm8974": "MSM8974", "msm8992": "MSM8992", "msm8994": "MSM8994",
    "msm8996": "MSM8996", "msm8998": "MSM8998", "sdm660": "SDM660", "sdm670": "SDM670", "sdm710": "SDM710",
    "sdm845": "SDM845", "msmnile": "SM8150", "kona": "SM8250", "lahaina": "SM8350", "taro": "SM8450",
    "kalama": "SM8550", "pineapple": "SM8650", "sun": "SM8750", "atoll": "SM7125", "lito": "SM7250",
    "gs101": "GS101", "gs201": "GS201", "zuma": "Zuma", "zumapro": "Zuma Pro",
}  # fmt: skip
_MAKERS = {
    "QTI": "Qualcomm", "Qualcomm": "Qualcomm", "Mediatek": "MediaTek", "MediaTek": "MediaTek", "Samsung": "Samsung",
    "SAMSUNG": "Samsung", "Google": "Google", "Spreadtrum": "Unisoc", "HiSilicon": "HiSilicon", "Rockchip": "Rockchip",
    # prefixes of device trees
    "brcm": "Broadcom", "rockchip": "Rockchip", "nvidia": "NVIDIA", "amlogic": "Amlogic", "allwinner": "Allwinner",
    "qcom": "Qualcomm", "mediatek": "MediaTek", "ti": "TI", "fsl": "NXP", "samsung": "Samsung", "apple": "Apple",
    "st": "ST", "xlnx": "Xilinx", "starfive": "StarFive", "marvell": "Marvell", "renesas": "Renesas",
}  # fmt: skip
_MARKET_NAMES = {
    "MSM8916": "Snapdragon 410", "MSM8953": "Snapdragon 625", "MSM8974": "Snapdragon 800", "MSM8992": "Snapdragon 808",
    "MSM8994": "Snapdragon 810", "MSM8996": "Snapdragon 820", "MSM8998": "Snapdragon 835", "SDM660": "Snapdragon 660",
    "SDM670": "Snapdragon 670", "SDM710": "Snapdragon 710", "SDM845": "Snapdragon 845", "SM7125": "Snapdragon 720G",
    "SM7250": "Snapdragon 765G", "SM8150": "Snapdragon 855", "SM8250": "Snapdragon 865", "SM8350": "Snapdragon 888",
    "SM8450": "Snapdragon 8 Gen 1", "SM8475": "Snapdragon 8+ Gen 1", "SM8550": "Snapdragon 8 Gen 2",
    "SM8650": "Snapdragon 8 Gen 3", "SM8750": "Snapdragon 8 Elite", "GS101": "Tensor", "GS201": "Tensor G2",
    "Zuma": "Tensor G3", "Zuma Pro": "Tensor G4", "S5E9925": "Exynos 2200", "S5E9945": "Exynos 2400",
    "MSM8996PRO": "Snapdragon 821", "APQ8096": "Snapdragon 820", "MT6768": "Helio P65", "MT6785": "Helio G90",
    "MT6833": "Dimensity 700", "MT6893": "Dimensity 1200", "MT6983": "Dimensity 9000", "MT6989": "Dimensity 9300",
    "TEGRA234": "Orin", "TEGRA194": "Xavier", "TEGRA210": "Tegra X1",
}  # fmt: skip
_PREFIXES = (
    ("SDM", "Qualcomm"), ("MSM", "Qualcomm"), ("APQ", "Qualcomm"), ("SM", "Qualcomm"), ("MT", "MediaTek"), ("GS", "Google"),
    ("ZUMA", "Google"), ("EXYNOS", "Samsung"), ("UNIVERSAL", "Samsung"), ("S5E", "Samsung"), ("KIRIN", "HiSilicon"),
)  # fmt: skip


def soc_name(chip: str, maker: str | None = None) -> str:
    """Maker, number and market name, as far as they are known: `Qualcomm SM8550 (Snapdragon 8 Gen 2)`."""
    chip = chip.strip()
    upper = chip.upper()
    known = _MAKERS.get(maker or "", (maker or "").capitalize() or None)
    if known is None:
        known = next(
            (
                name
                for prefix, name in _PREFIXES
                if upper.startswith(prefix) and upper[len(prefix) :][:1] in "0123456789 "
            ),
            None,
        )
    found = re.fullmatch(r"(?i)(exynos|kirin)[ _-]?(\d+\w*)", chip)
    if found is not None:
        return f"{'Samsung' if found[1].lower() == 'exynos' else 'HiSilicon'} {found[1].capitalize()} {found[2]}"
    shown = upper if upper.startswith(("SM", "SDM", "MSM", "MT", "GS", "BCM", "RK", "S5E")) else chip
    if upper.startswith("TEGRA"):
        shown = chip.capitalize()
    market = _MARKET_NAMES.get(upper) or _MARKET_NAMES.get(chip)
    whole = shown if market is None or market.lower() == shown.lower() else f"{shown} ({market})"
    return whole if known is None or whole.lower().startswith(known.lower()) else f"{known} {whole}"
