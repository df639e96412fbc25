//! The chart: for each cell a bar as long as our CPU time is of nginx's, a line where they are equal, a mark where
//! the target is. Colours are for light and for dark pages.

use std::fmt::Write as _;

use serde_json::Value;

use super::docs::pretty;

const WIDTH: f64 = 860.0;
/// Where the bars begin.
const LEFT: f64 = 250.0;
/// How long a ratio of 1 is, and what the longest bar stands for.
const ONE: f64 = 380.0;
const MOST: f64 = 1.4;
const TOP: f64 = 56.0;
const ROW: f64 = 22.0;
const BAR: f64 = 13.0;

const STYLE: &str = "\
text { font: 12px system-ui, sans-serif; fill: #24292f }
.title { font-size: 15px; font-weight: 600 }
.quiet { fill: #6e7781 }
.grid { stroke: #d0d7de }
.one { stroke: #24292f }
.better { fill: #1a7f64 }
.worse { fill: #bc4c00 }
.spread { stroke: #24292f; stroke-width: 1.5 }
.target { stroke: #0969da; stroke-width: 3 }
.halo { stroke: #ffffff; stroke-width: 6 }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 }
.quiet { fill: #8d96a0 }
.grid { stroke: #30363d }
.one, .spread { stroke: #e6edf3 }
.better { fill: #2fa583 }
.worse { fill: #db6d28 }
.target { stroke: #58a6ff }
.halo { stroke: #0d1117 }
}
";

/// The chart of a results file.
pub fn svg(results: &Value) -> String {
    let cells = results.pointer("/cells").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let height = TOP + ROW * cells.len() as f64 + 24.0;
    let mut svg = String::new();
    // Writing to a string cannot fail.
    let _ = write!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" role=\"img\">\n<title>CPU time per request, Edgewater to nginx</title>\n\
         <style>\n{STYLE}</style>\n\
         <text class=\"title\" x=\"8\" y=\"20\">CPU time per request, Edgewater to nginx</text>\n\
         <text class=\"quiet\" x=\"8\" y=\"38\">shorter is better; thin line: the rounds; thick mark: the target</text>\n"
    );
    for tenths in [0, 2, 4, 6, 8, 10, 12, 14] {
        let (ratio, class) = (f64::from(tenths) / 10.0, if tenths == 10 { "one" } else { "grid" });
        let (x, end) = (at(ratio), TOP + ROW * cells.len() as f64);
        let _ = write!(
            svg,
            "<line class=\"{class}\" x1=\"{x:.1}\" y1=\"{:.1}\" x2=\"{x:.1}\" y2=\"{end:.1}\"/>\n\
             <text class=\"quiet\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{ratio:.1}</text>\n",
            TOP - 4.0,
            end + 16.0
        );
    }
    for (row, cell) in cells.iter().enumerate() {
        svg += &bar(cell, TOP + ROW * row as f64);
    }
    svg + "</svg>\n"
}

/// One cell, whose row begins at `top`.
fn bar(cell: &Value, top: f64) -> String {
    let number = |pointer: &str| cell.pointer(pointer).and_then(Value::as_f64);
    let name = pretty(cell.pointer("/cell").and_then(Value::as_str).unwrap_or_default());
    let Some(ratio) = number("/ratio") else { return String::new() };
    let (middle, bar_top) = (top + ROW / 2.0, top + (ROW - BAR) / 2.0);
    let class = if ratio <= 1.0 { "better" } else { "worse" };
    let mut text = format!(
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{name}</text>\n\
         <rect class=\"{class}\" x=\"{LEFT:.1}\" y=\"{bar_top:.1}\" width=\"{:.1}\" height=\"{BAR}\" rx=\"2\"/>\n",
        LEFT - 8.0,
        middle + 4.0,
        at(ratio) - LEFT
    );
    if let (Some(low), Some(high)) = (number("/ratio_spread/0"), number("/ratio_spread/1")) {
        let (x1, x2) = (at(low), at(high));
        text += &format!(
            "<line class=\"spread\" x1=\"{x1:.1}\" y1=\"{middle:.1}\" x2=\"{x2:.1}\" y2=\"{middle:.1}\"/>\n"
        );
    }
    if let Some(target) = number("/target") {
        let (x, y1, y2) = (at(target), top + 2.0, top + ROW - 2.0);
        for class in ["halo", "target"] {
            text += &format!(
                "<line class=\"{class}\" x1=\"{x:.1}\" y1=\"{y1:.1}\" x2=\"{x:.1}\" y2=\"{y2:.1}\"/>\n"
            );
        }
    }
    text += &format!("<text x=\"{:.1}\" y=\"{:.1}\">{ratio:.2}</text>\n", at(MOST) + 12.0, middle + 4.0);
    text
}

/// Where a ratio is; what is longer than the chart ends with it.
fn at(ratio: f64) -> f64 {
    LEFT + ratio.clamp(0.0, MOST) * ONE
}
