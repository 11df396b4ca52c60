//! A plan as a picture.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::plan::{Edge, Output, Plan, Stage, StageInput};

/// Pixels. A letter of the monospaced font at 13 pixels is at most so wide.
const LETTER: f64 = 8.0;
const LINE: f64 = 20.0;
const PADDING: f64 = 12.0;
const BETWEEN_COLUMNS: f64 = 120.0;
const BETWEEN_ROWS: f64 = 28.0;
const MARGIN: f64 = 24.0;

/// How often the boxes of the columns are put in the order of their neighbours: after a few times nothing changes any more.
const SWEEPS: usize = 4;

const STYLE: &str = "\
:root { color-scheme: light dark }
text { font: 13px ui-monospace, Menlo, Consolas, monospace; fill: #1c2430 }
.name { font-weight: 600 }
.dim { fill: #5b6675 }
.box { fill: #fff; stroke: #8793a3 }
.stage { stroke: #2f6fb3; stroke-width: 2 }
.back { fill: #f6f8fa }
.line { fill: none; stroke: #5b6675; stroke-width: 1.5 }
.disk { fill: #fff; stroke: #b3622f; stroke-width: 1.5 }
#arrow path { fill: #5b6675 }
@media (prefers-color-scheme: dark) {
text { fill: #e6eaf0 } .dim { fill: #9aa5b4 } .back { fill: #14181e } .box, .disk { fill: #1e242c } .line { stroke: #9aa5b4 }
#arrow path { fill: #9aa5b4 }
}";

/// The plan as an SVG image: sources, stages with their steps, and sinks as boxes from left to right; calls as arrows, and
/// durable edges as arrows with a disk on them, each with its reason below. Light or dark, as the viewer prefers.
#[must_use]
pub fn svg(plan: &Plan) -> String {
    let mut drawing = Drawing::default();
    let sources: BTreeMap<&str, usize> = plan
        .sources
        .iter()
        .map(|s| (s.name.as_str(), drawing.part(&s.name, &[("source", &s.connector)], false)))
        .collect();
    let stages: BTreeMap<&str, usize> =
        plan.stages.iter().map(|s| (s.name.as_str(), drawing.stage(s))).collect();
    let sinks: BTreeMap<&str, usize> = plan
        .sinks
        .iter()
        .map(|s| (s.name.as_str(), drawing.part(&s.name, &[("sink", &s.connector)], false)))
        .collect();
    for stage in &plan.stages {
        let Some(&own) = stages.get(stage.name.as_str()) else { continue };
        for input in &stage.inputs {
            let StageInput::Source(name) = input else { continue };
            drawing.arrow(sources.get(name.as_str()), Some(&own), None);
        }
        if let Output::Sink(name) = &stage.output {
            drawing.arrow(Some(&own), sinks.get(name.as_str()), None);
        }
    }
    for edge in &plan.edges {
        drawing.arrow(stages.get(edge.from.as_str()), stages.get(edge.to.as_str()), Some(edge));
    }
    drawing.arrange();
    drawing.draw(&format!("{} {}", plan.pipeline, plan.version))
}

/// A box, or a place through which an arrow goes past a column.
#[derive(Default)]
struct Cell {
    /// Nothing for a place.
    lines: Vec<(String, String)>,
    is_stage: bool,
    column: usize,
    row: usize,
    x: f64,
    y: f64,
    width: f64,
    height: f64,
}

impl Cell {
    fn middle(&self) -> f64 {
        self.y + self.height / 2.0
    }
}

struct Arrow<'p> {
    /// The first and the last are boxes.
    cells: Vec<usize>,
    edge: Option<&'p Edge>,
}

#[derive(Default)]
struct Drawing<'p> {
    cells: Vec<Cell>,
    arrows: Vec<Arrow<'p>>,
}

impl<'p> Drawing<'p> {
    fn part(&mut self, name: &str, rows: &[(&str, &str)], is_stage: bool) -> usize {
        let lines = std::iter::once(("", name)).chain(rows.iter().copied());
        let lines: Vec<_> = lines.map(|(a, b)| (a.to_owned(), b.to_owned())).collect();
        let letters = lines.iter().map(|(a, b)| a.chars().count() + b.chars().count() + 1).max();
        let width = to_pixels(letters.unwrap_or_default(), LETTER) + 2.0 * PADDING;
        let height = to_pixels(lines.len(), LINE) + PADDING;
        self.cells.push(Cell { lines, is_stage, width, height, ..Cell::default() });
        self.cells.len() - 1
    }

    fn stage(&mut self, stage: &Stage) -> usize {
        let kinds: Vec<String> = stage.steps.iter().map(|step| step.kind.to_string()).collect();
        let steps = kinds.iter().map(String::as_str);
        let rows: Vec<_> = steps.zip(stage.steps.iter().map(|step| step.name.as_str())).collect();
        let name = format!("{} ({} at once)", stage.name, stage.instances);
        self.part(&name, &rows, true)
    }

    fn arrow(&mut self, from: Option<&usize>, to: Option<&usize>, edge: Option<&'p Edge>) {
        if let (Some(&from), Some(&to)) = (from, to) {
            self.arrows.push(Arrow { cells: vec![from, to], edge });
        }
    }

    fn arrange(&mut self) {
        self.make_room_for_arrows();
        self.assign_columns();
        self.lead_past_columns();
        self.order_rows();
        self.place();
    }

    /// Each arrow at a side of a box has a line's height, so that what is written at one is not on the next.
    fn make_room_for_arrows(&mut self) {
        for number in 0..self.cells.len() {
            let count = |end: for<'a> fn(&'a Arrow<'_>) -> Option<&'a usize>| {
                self.arrows.iter().filter(|arrow| end(arrow) == Some(&number)).count()
            };
            let most = count(|arrow| arrow.cells.first()).max(count(|arrow| arrow.cells.last()));
            if let Some(cell) = self.cells.get_mut(number) {
                cell.height = cell.height.max(to_pixels(most + 1, LINE));
            }
        }
    }

    /// A box is right of all that hand it messages.
    fn assign_columns(&mut self) {
        for _ in 0..self.cells.len() {
            let mut is_done = true;
            for arrow in &self.arrows {
                let [from, to] = arrow.cells[..] else { continue };
                let least = self.cells.get(from).map_or(0, |cell| cell.column + 1);
                if let Some(cell) = self.cells.get_mut(to).filter(|cell| cell.column < least) {
                    cell.column = least;
                    is_done = false;
                }
            }
            if is_done {
                break;
            }
        }
    }

    /// An arrow that goes further than to the next column has a place in each between.
    fn lead_past_columns(&mut self) {
        for arrow in &mut self.arrows {
            let [from, to] = arrow.cells[..] else { continue };
            let column = |cell: usize| self.cells.get(cell).map_or(0, |cell| cell.column);
            let between = column(from) + 1..column(to);
            let first = self.cells.len();
            let places = first..first + between.len();
            self.cells.extend(between.map(|column| Cell {
                column,
                height: LINE,
                ..Cell::default()
            }));
            arrow.cells = std::iter::once(from).chain(places).chain([to]).collect();
        }
    }

    fn columns(&self) -> Vec<Vec<usize>> {
        let last = self.cells.iter().map(|cell| cell.column).max().unwrap_or_default();
        let mut columns = vec![Vec::new(); last + 1];
        for (number, cell) in self.cells.iter().enumerate() {
            if let Some(column) = columns.get_mut(cell.column) {
                column.push(number);
            }
        }
        for column in &mut columns {
            column.sort_by_key(|cell| self.row(*cell));
        }
        columns
    }

    fn row(&self, cell: usize) -> usize {
        self.cells.get(cell).map_or(0, |cell| cell.row)
    }

    /// Where a cell should be by the rows of those before it, or behind it.
    fn wanted(&self, cell: usize, is_forward: bool) -> f64 {
        let pairs = self.arrows.iter().flat_map(|arrow| arrow.cells.windows(2));
        let neighbours = pairs.filter_map(|pair| match (pair, is_forward) {
            ([from, to], true) if *to == cell => Some(*from),
            ([from, to], false) if *from == cell => Some(*to),
            _ => None,
        });
        let (count, sum) = neighbours.fold((0_usize, 0_usize), |(count, sum), neighbour| {
            (count + 1, sum + self.row(neighbour))
        });
        match count {
            0 => to_pixels(self.row(cell), 1.0),
            _ => to_pixels(sum, 1.0) / to_pixels(count, 1.0),
        }
    }

    /// Boxes in the order of their neighbours, so that few arrows cross.
    fn order_rows(&mut self) {
        self.number_rows(&self.columns());
        for sweep in 0..SWEEPS {
            let is_forward = sweep % 2 == 0;
            let mut columns = self.columns();
            for column in &mut columns {
                let mut wanted: Vec<(f64, usize)> =
                    column.iter().map(|cell| (self.wanted(*cell, is_forward), *cell)).collect();
                wanted.sort_by(|a, b| a.0.total_cmp(&b.0));
                *column = wanted.into_iter().map(|(_, cell)| cell).collect();
                self.number_rows(std::slice::from_ref(column));
            }
        }
    }

    fn number_rows(&mut self, columns: &[Vec<usize>]) {
        for (row, cell) in columns.iter().flat_map(|column| column.iter().enumerate()) {
            if let Some(cell) = self.cells.get_mut(*cell) {
                cell.row = row;
            }
        }
    }

    fn place(&mut self) {
        let columns = self.columns();
        let cells = |column: &[usize]| -> Vec<&Cell> {
            column.iter().filter_map(|cell| self.cells.get(*cell)).collect()
        };
        let sizes: Vec<(f64, f64)> = columns
            .iter()
            .map(|column| {
                let cells = cells(column);
                let gaps = to_pixels(cells.len().saturating_sub(1), BETWEEN_ROWS);
                let height = cells.iter().map(|cell| cell.height).sum::<f64>() + gaps;
                (cells.iter().map(|cell| cell.width).fold(0.0, f64::max), height)
            })
            .collect();
        let tallest = sizes.iter().map(|(_, height)| *height).fold(0.0, f64::max);
        let mut x = MARGIN;
        for (column, (width, height)) in columns.iter().zip(sizes) {
            let mut y = MARGIN + LINE + (tallest - height) / 2.0;
            for number in column {
                let Some(cell) = self.cells.get_mut(*number) else { continue };
                (cell.x, cell.y) = (x, y);
                cell.width = if cell.lines.is_empty() { width } else { cell.width };
                y += cell.height + BETWEEN_ROWS;
            }
            x += width + BETWEEN_COLUMNS;
        }
    }

    fn draw(&self, title: &str) -> String {
        let below =
            self.cells.iter().map(|cell| cell.y + cell.height).fold(MARGIN + LINE, f64::max);
        let reasons: Vec<String> = self
            .arrows
            .iter()
            .filter_map(|arrow| arrow.edge)
            .map(|e| format!("{}: {}; keeps at most {}", e.name, e.reason, e.settings.max_bytes))
            .collect();
        let letters = reasons.iter().map(|r| r.chars().count()).chain([title.chars().count()]);
        let widest = to_pixels(letters.max().unwrap_or_default(), LETTER) + 2.0 * MARGIN;
        let right = self.cells.iter().map(|cell| cell.x + cell.width).fold(0.0, f64::max);
        let width = (right + MARGIN).max(widest + LINE);
        let height = below + MARGIN + to_pixels(reasons.len(), LINE) + MARGIN;

        let mut svg = Svg(String::new());
        let title = escaped(title);
        svg.line(format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{title}\">"
        ));
        svg.line(format_args!("<style>\n{STYLE}\n</style>"));
        svg.line(format_args!(
            "<defs><marker id=\"arrow\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" markerWidth=\"8\" markerHeight=\"8\" orient=\"auto\"><path d=\"M0 0L8 4L0 8z\"/></marker></defs>"
        ));
        svg.line(format_args!("<rect class=\"back\" width=\"{width}\" height=\"{height}\"/>"));
        svg.text(MARGIN, MARGIN, "name", &title);
        for (number, arrow) in self.arrows.iter().enumerate() {
            self.draw_arrow(&mut svg, number, arrow);
        }
        for cell in self.cells.iter().filter(|cell| !cell.lines.is_empty()) {
            draw_box(&mut svg, cell);
        }
        for (number, reason) in reasons.iter().enumerate() {
            let y = below + MARGIN + to_pixels(number + 1, LINE);
            draw_disk(&mut svg, MARGIN + 6.0, y - 4.0);
            svg.text(MARGIN + LINE, y, "dim", &escaped(reason));
        }
        svg.line(format_args!("</svg>"));
        svg.0
    }

    /// Where an arrow begins or ends at a box: those of one side are spread over it.
    fn port(&self, cell: usize, number: usize, is_start: bool) -> f64 {
        let end = |arrow: &Arrow<'_>| match is_start {
            true => arrow.cells.first() == Some(&cell),
            false => arrow.cells.last() == Some(&cell),
        };
        let all: Vec<usize> =
            self.arrows.iter().enumerate().filter(|(_, a)| end(a)).map(|(n, _)| n).collect();
        // In the order of where they come from or go to, so that they do not cross at the box.
        let mut ordered: Vec<(f64, usize)> = all
            .iter()
            .filter_map(|number| {
                let cells = &self.arrows.get(*number)?.cells;
                let next = match is_start {
                    true => cells.get(1),
                    false => cells.iter().rev().nth(1),
                };
                Some((self.cells.get(*next?)?.middle(), *number))
            })
            .collect();
        ordered.sort_by(|a, b| a.0.total_cmp(&b.0));
        let place = ordered.iter().position(|(_, found)| *found == number).unwrap_or_default();
        let share = to_pixels(place + 1, 1.0) / to_pixels(ordered.len() + 1, 1.0);
        self.cells.get(cell).map_or(0.0, |cell| cell.y + cell.height * share)
    }

    fn draw_arrow(&self, svg: &mut Svg, number: usize, arrow: &Arrow<'_>) {
        let (Some(&first), Some(&last)) = (arrow.cells.first(), arrow.cells.last()) else { return };
        let Some(start) = self.cells.get(first) else { return };
        let mut path = String::new();
        let (mut x, mut y) = (start.x + start.width, self.port(first, number, true));
        let mut middle = (x, y);
        let _ = write!(path, "M{x} {y}");
        for cell in arrow.cells.iter().skip(1) {
            let Some(found) = self.cells.get(*cell) else { continue };
            let is_end = *cell == last;
            let to = if is_end { self.port(last, number, false) } else { found.middle() };
            let bend = (x + found.x) / 2.0;
            let _ = write!(path, "C{bend} {y} {bend} {to} {} {to}", found.x);
            middle = (bend, (y + to) / 2.0);
            (x, y) = (found.x, to);
            if !is_end {
                x += found.width;
                let _ = write!(path, "L{x} {y}");
            }
        }
        svg.line(format_args!("<path class=\"line\" marker-end=\"url(#arrow)\" d=\"{path}\"/>"));
        let Some(edge) = arrow.edge else { return };
        draw_disk(svg, middle.0, middle.1);
        if let Some(arm) = edge.arm() {
            svg.text(middle.0 + 10.0, middle.1 - 6.0, "dim", &escaped(arm));
        }
    }
}

fn draw_box(svg: &mut Svg, cell: &Cell) {
    let Cell { x, y, width, height, .. } = *cell;
    let class = if cell.is_stage { "box stage" } else { "box" };
    svg.line(format_args!(
        "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" rx=\"6\"/>"
    ));
    for (number, (before, text)) in cell.lines.iter().enumerate() {
        let y = y + to_pixels(number + 1, LINE);
        let x = x + PADDING;
        if before.is_empty() {
            svg.text(x, y, "name", &escaped(text));
        } else {
            svg.line(format_args!(
                "<text x=\"{x}\" y=\"{y}\"><tspan class=\"dim\">{}</tspan> {}</text>",
                escaped(before),
                escaped(text)
            ));
        }
    }
}

/// The sign of a durable edge, around a point.
fn draw_disk(svg: &mut Svg, x: f64, y: f64) {
    let (left, top) = (x - 7.0, y - 5.0);
    svg.line(format_args!(
        "<path class=\"disk\" d=\"M{left} {top}v10a7 3 0 0 0 14 0v-10\"/><ellipse class=\"disk\" cx=\"{x}\" cy=\"{top}\" rx=\"7\" ry=\"3\"/>"
    ));
}

struct Svg(String);

impl Svg {
    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "{line}");
    }

    fn text(&mut self, x: f64, y: f64, class: &str, escaped: &str) {
        self.line(format_args!("<text class=\"{class}\" x=\"{x}\" y=\"{y}\">{escaped}</text>"));
    }
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

/// So many of something of so many pixels. There are far fewer of anything here than a `u32` counts.
fn to_pixels(count: usize, each: f64) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX)) * each
}
