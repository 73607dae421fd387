"""Make the book's mathematics font from STIX Two Math: `python book/_ext/math_font.py SOURCE.woff2`.

Not run by the build; its result is kept in book/_web/fonts. Needs fonttools and brotli. It keeps the characters
that a book on probability needs, with the MATH table and all stretchy forms, and changes three things that
browsers (Chromium at least) draw worse than TeX does.
"""

from __future__ import annotations

import sys
from pathlib import Path

from fontTools import subset
from fontTools.pens.ttGlyphPen import TTGlyphPen
from fontTools.ttLib import TTFont
from fontTools.ttLib.tables import otTables

RESULT = Path(__file__).parent.parent / "_web" / "fonts" / "stix-two-math-subset.woff2"

# Latin, accents, Greek, punctuation, letterlike symbols, arrows, operators, brackets, and the mathematical
# alphabets: bold, italic, script, fraktur, double-struck, sans, monospace, and the digits.
CHARACTERS = """
    20-7E A0-FF 131 237 2C6-2C7 2D8-2DD 300-30C 332 338 20D7 391-3A9 3B1-3C9 3D1 3D5 3D6 3F0 3F1 3F5
    2010-2016 2018-201D 2020-2022 2026 2032-2035 203E 2044 2057 2061-2064 2070-209C
    2102 210B-2113 2115 2118-211D 2124 2128 212C-212D 2130-2131 2133 2135
    2190-219B 21A6 21A9 21AA 21BC-21CC 21D0-21D5 2200-2237 223C-223D 2240-224D 2250-2255 225C-225D 2260-2262
    2264-2267 226A-226B 226E-2271 227A-227D 2282-228B 228E-2299 22A2-22A5 22A8 22BA 22C0-22C6 22CF 22EE-22F1
    2308-230B 23B4-23B5 23DC-23E1 25A0-25A1 25B3 25CB 25CF 27E8-27EB 27F5-27FA 27FC 2A00-2A02 2A7D-2A7E 2AEB
    FE00 1D400-1D537 1D538-1D56B 1D5A0-1D5D3 1D670-1D6A5 1D6A8-1D755 1D7CE-1D7E1 1D7F6-1D7FF
"""

# A browser reserves for every root the width of the widest root sign, which tears a hole after each small one.
# So all root signs get nearly the width of the smallest (794 units).
ROOT_WIDTH = 834


def code_points(text: str) -> set[int]:
    found: set[int] = set()
    for part in text.split():
        first, _, last = part.partition("-")
        found |= set(range(int(first, 16), int(last or first, 16) + 1))
    return found


def narrow_roots(font: TTFont) -> None:
    variants = font["MATH"].table.MathVariants
    index = variants.VertGlyphCoverage.glyphs.index(font.getBestCmap()[0x221A])
    construction = variants.VertGlyphConstruction[index]
    whole = {record.VariantGlyph for record in construction.MathGlyphVariantRecord}
    parts = {record.glyph for record in construction.GlyphAssembly.PartRecords}
    for name in whole | parts:
        width, left = font["hmtx"][name]
        excess = width - ROOT_WIDTH
        if excess <= 0:
            continue
        glyph = font["glyf"][name]
        for i, (x, y) in enumerate(glyph.coordinates):
            if name in whole:
                x *= ROOT_WIDTH / width
            else:  # parts meet at an upright stem, from 849 on: it moves and keeps its thickness
                x = x - excess if x >= 849 else x * (849 - excess) / 849
            glyph.coordinates[i] = (round(x), y)
        glyph.recalcBounds(font["glyf"])
        font["hmtx"][name] = (
            ROOT_WIDTH,
            glyph.xMin if glyph.numberOfContours else left,
        )


Component = tuple[str, tuple[float, float, float, float, float, float]]


def add_variant(
    font: TTFont,
    construction: otTables.MathGlyphConstruction,
    components: list[Component],
    width: int,
    size: int,
) -> None:
    """Add one more ready-made size of a stretchy character, put together from glyphs that the font has."""
    name = f"stretched{len(font.getGlyphOrder())}"
    pen = TTGlyphPen(font.getGlyphSet())
    for component in components:
        pen.addComponent(*component)
    font.setGlyphOrder([*font.getGlyphOrder(), name])
    font["glyf"][name] = glyph = pen.glyph()
    glyph.recalcBounds(font["glyf"])
    font["hmtx"][name] = (width, glyph.xMin)
    record = otTables.MathGlyphVariantRecord()
    record.VariantGlyph, record.AdvanceMeasurement = name, size
    construction.MathGlyphVariantRecord.append(record)
    construction.VariantCount = len(construction.MathGlyphVariantRecord)


def add_bars(font: TTFont) -> None:
    """Bars in the sizes of brackets: Chromium glues them from pieces too long and in the wrong place."""
    variants, cmap = font["MATH"].table.MathVariants, font.getBestCmap()
    covered = variants.VertGlyphCoverage.glyphs
    sizes = [
        r.AdvanceMeasurement
        for r in variants.VertGlyphConstruction[
            covered.index("parenleft")
        ].MathGlyphVariantRecord
    ]
    for character in "|\u2016\u2223\u2225":
        base = cmap[ord(character)]
        construction = variants.VertGlyphConstruction[covered.index(base)]
        glyph = font["glyf"][base]
        centre = (glyph.yMin + glyph.yMax) / 2
        for size in sizes[1:]:
            stretch = size / (glyph.yMax - glyph.yMin)
            shift = centre * (1 - stretch)
            add_variant(
                font,
                construction,
                [(base, (1, 0, 0, stretch, 0, shift))],
                font["hmtx"][base][0],
                size,
            )


def main(source: str) -> None:
    options = subset.Options(
        layout_features=["ccmp", "kern"],
        hinting=False,
        notdef_outline=True,
        flavor="woff2",
        name_IDs=[0, 1, 2, 3, 4, 5, 6, 13, 14],
    )
    font = subset.load_font(source, options)
    subsetter = subset.Subsetter(options)
    subsetter.populate(unicodes=code_points(CHARACTERS))
    subsetter.subset(font)
    narrow_roots(font)
    add_bars(font)
    constants = font["MATH"].table.MathConstants
    # A subscript drops with the tail of its letter, so that the t of beta_t hung far below that of alpha_t.
    # TeX does not do that under single letters.
    constants.SubscriptBaselineDropMin.Value = -30
    subset.save_font(font, str(RESULT), options)
    print(f"{RESULT.name}: {RESULT.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1])
