//! One plot as SVG: axes and lines by plotters; colours, dashes and dark mode by a style sheet.
//!
//! plotters writes each colour as an attribute. The style sheet maps these onto CSS variables, so that the same plot is
//! readable on white and on black, and gives each line its own dashes for those who do not see colours. Without the
//! style sheet the plot is still right, on white.

use std::fmt::Write as _;
use std::io;
use std::ops::Range;

use maud::{Markup, PreEscaped, html};
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Width and height of the drawing; it is shown smaller, so that its whole numbers are fine enough.
const SIZE: (u32, u32) = (1400, 640);
/// The size of letters, in the same unit.
const LETTERS: u32 = 30;
/// About how wide a letter is.
const LETTER: u32 = 14;
/// The width of a line.
const STROKE: u32 = 4;
/// A line of the legend.
const LEGEND: u32 = 42;

/// Axes and letters: on white, on black.
static INK: Ink = Ink(RGBColor(0x1A, 0x1A, 0x1A), "#e8e8e8", "");
/// The grid.
static GRID: Ink = Ink(RGBColor(0xD9, 0xD9, 0xD9), "#404040", "");
/// What lines are drawn in. The colours are Okabe and Ito's, which also colour-blind people tell apart, darkened for
/// white where they need it.
static INKS: [Ink; 8] = [
    Ink(RGBColor(0x6B, 0x6B, 0x6B), "#a0a0a0", "4 8"),
    Ink(RGBColor(0x50, 0x50, 0x50), "#c0c0c0", "18 8 4 8"),
    Ink(RGBColor(0x00, 0x72, 0xB2), "#56b4e9", ""),
    Ink(RGBColor(0xC2, 0x4E, 0x00), "#ff8c42", "20 10"),
    Ink(RGBColor(0x00, 0x7F, 0x5F), "#2fc79d", "10 8"),
    Ink(RGBColor(0xA8, 0x4B, 0x84), "#e39cc4", "24 8 6 8"),
    Ink(RGBColor(0x9A, 0x6B, 0x00), "#f0b429", "6 6"),
    Ink(RGBColor(0x5B, 0x4B, 0xB5), "#a99bff", "30 8"),
];

/// A colour on white, the same on black, and the dashes of its lines.
struct Ink(RGBColor, &'static str, &'static str);

impl Ink {
    /// As plotters writes it.
    fn light(&self) -> String {
        let RGBColor(red, green, blue) = self.0;
        format!("#{red:02X}{green:02X}{blue:02X}")
    }
}

/// What a line shows, which decides its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hue {
    /// What would be ideal.
    Ideal,
    /// What theory says.
    Theory,
    /// A proxy, by its number.
    Proxy(usize),
}

impl Hue {
    fn ink(self) -> &'static Ink {
        match self {
            Self::Ideal => &INKS[0],
            Self::Theory => &INKS[1],
            Self::Proxy(number) => &INKS[2 + number % (INKS.len() - 2)],
        }
    }
}

/// One line of a plot.
#[derive(Clone, Debug)]
pub struct Line {
    /// What the legend calls it.
    pub name: String,
    /// Its colour.
    pub hue: Hue,
    /// Its points, from left to right; those outside of the axes are left out.
    pub points: Vec<(f64, f64)>,
    /// Whether each point gets a mark.
    pub marks: bool,
}

/// Cells of equal size that are more or less filled, in place of lines.
#[derive(Clone, Debug)]
pub struct Heat {
    /// Its colour.
    pub hue: Hue,
    /// One text a row from below, one digit a cell: 0 is empty, 9 is full.
    pub rows: Vec<String>,
}

/// An axis with its range and ticks.
#[derive(Clone, Debug)]
pub struct Axis {
    name: String,
    from: f64,
    to: f64,
    log: bool,
    ticks: Vec<f64>,
    label: fn(f64) -> String,
}

impl Axis {
    /// An axis from 0 to just above the highest value.
    pub fn linear(name: &str, values: impl Iterator<Item = f64>) -> Self {
        let most = values.filter(|value| value.is_finite()).fold(0.0, f64::max);
        Self::between(name, 0.0, if most > 0.0 { most * 1.04 } else { 1.0 })
    }

    /// An axis between these two.
    pub fn between(name: &str, from: f64, to: f64) -> Self {
        let rough = (to - from) / 6.0;
        let ten = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|n| n * ten).into_iter().find(|step| *step >= rough);
        let step = step.unwrap_or(rough);
        let first = (from / step).ceil() as i64;
        let ticks =
            (first..first + 20).map(|n| n as f64 * step).take_while(|tick| *tick <= to * (1.0 + 1e-9));
        Self { name: name.to_owned(), from, to, log: false, ticks: ticks.collect(), label: short }
    }

    /// A logarithmic axis around the values above 0, with nothing below `least`.
    pub fn log(name: &str, values: impl Iterator<Item = f64>, least: f64) -> Self {
        let (mut from, mut to) = (f64::MAX, f64::MIN);
        for value in values.filter(|value| value.is_finite() && *value >= least) {
            (from, to) = (from.min(value), to.max(value));
        }
        if from > to {
            (from, to) = (least, least * 10.0);
        }
        (from, to) = (from * 0.9, to * 1.1);
        let decades = from.log10().floor() as i32..=to.log10().ceil() as i32;
        let steps: &[f64] = match (to / from).log10() {
            wide if wide > 3.0 => &[1.0],
            some if some > 0.8 => &[1.0, 2.0, 5.0],
            _ => &[1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0],
        };
        let ticks = decades.flat_map(|decade| steps.iter().map(move |step| step * 10f64.powi(decade)));
        let inside = |tick: &f64| (from..=to).contains(tick);
        let mut ticks: Vec<f64> = ticks.filter(inside).collect();
        if ticks.len() < 2 {
            // So near to each other, values stand as on a linear axis.
            ticks = Self::between(name, from, to).ticks.into_iter().filter(inside).collect();
        }
        Self { name: name.to_owned(), from, to, log: true, ticks, label: short }
    }

    /// With these ticks, and what stands at them.
    #[must_use]
    pub fn ticks(mut self, ticks: impl IntoIterator<Item = f64>, label: fn(f64) -> String) -> Self {
        self.ticks = ticks.into_iter().filter(|tick| (self.from..=self.to).contains(tick)).collect();
        self.label = label;
        self
    }

    /// A value as it stands at a tick.
    pub fn text(&self, value: f64) -> String {
        (self.label)(value)
    }

    fn holds(&self, value: f64) -> bool {
        value.is_finite() && (self.from..=self.to).contains(&value)
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let place = |value: f64| if self.log { value.max(f64::MIN_POSITIVE).ln() } else { value };
        let span = place(self.to) - place(self.from);
        let share = if span > 0.0 { (place(*value) - place(self.from)) / span } else { 0.0 };
        limit.0 + (share * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() { Vec::new() } else { self.ticks.clone() }
    }

    fn range(&self) -> Range<f64> {
        self.from..self.to
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, value: &f64) -> String {
        (self.label)(*value)
    }
}

/// A number without needless digits: 0.25, 12, 40k.
pub fn short(value: f64) -> String {
    let (number, unit) = match value.abs() {
        big if big >= 1e6 => (value / 1e6, "M"),
        big if big >= 1e4 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let decimals = match number.abs() {
        0.0 => 0,
        small if small < 1.0 => (1.0 - small.log10().floor()).clamp(0.0, 6.0) as usize,
        small if small < 100.0 => 1,
        _ => 0,
    };
    let text = format!("{number:.decimals$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{unit}")
}

/// A plot and what is said about it.
#[derive(Clone, Debug)]
pub struct Plot {
    /// Its name within a page.
    pub id: String,
    /// Its headline.
    pub title: String,
    /// What it shows, in a sentence; read to those who do not see it.
    pub about: String,
    /// To the right.
    pub x: Axis,
    /// Upwards.
    pub y: Axis,
    /// What is drawn.
    pub lines: Vec<Line>,
    /// What is drawn in place of lines.
    pub heat: Option<Heat>,
}

impl Plot {
    /// The plot as an element of a page that has [`style`].
    ///
    /// # Errors
    /// When the plotting library fails.
    pub fn svg(&self) -> io::Result<Markup> {
        self.element(None)
    }

    /// The plot as a file of its own.
    ///
    /// # Errors
    /// When the plotting library fails.
    pub fn file(&self) -> io::Result<String> {
        Ok(self.element(Some(&style()))?.into_string())
    }

    fn element(&self, style: Option<&str>) -> io::Result<Markup> {
        let (title, about) = (format!("{}-title", self.id), format!("{}-about", self.id));
        let drawing = self.draw()?;
        Ok(html! {
            svg xmlns="http://www.w3.org/2000/svg" viewBox=(format!("0 0 {} {}", SIZE.0, SIZE.1)) role="img"
                aria-labelledby=(format!("{title} {about}")) {
                title id=(title) { (self.title) }
                desc id=(about) { (self.about) }
                @if let Some(style) = style {
                    style { (PreEscaped(style)) }
                    rect width="100%" height="100%" fill="#FFFFFF" {}
                }
                (PreEscaped(drawing))
            }
        })
    }

    /// The points of a line that stand in the table below: all of a few, else those next to the ticks.
    pub fn shown(&self, line: &Line) -> Vec<(f64, f64)> {
        if line.points.len() <= 12 {
            return line.points.clone();
        }
        let nearest = |tick: &f64| {
            let far = |point: &(f64, f64)| (point.0 - tick).abs();
            line.points.iter().copied().min_by(|one, other| far(one).total_cmp(&far(other)))
        };
        let mut shown: Vec<_> = self.x.ticks.iter().filter_map(nearest).collect();
        shown.dedup();
        shown
    }

    /// What stands within the element.
    fn draw(&self) -> io::Result<String> {
        let mut text = String::new();
        let heat = self.draw_into(&mut text).map_err(|error| io::Error::other(error.to_string()))?;
        // The element itself is ours.
        let begin = text.find('>').map_or(0, |at| at + 1);
        let end = text.rfind("</svg>").unwrap_or(text.len());
        Ok(format!("{}{heat}", &text[begin..end]))
    }

    fn draw_into(&self, text: &mut String) -> Result<String, Box<dyn std::error::Error>> {
        let root = SVGBackend::with_string(text, SIZE).into_drawing_area();
        let legend = self.draw_legend(&root)?;
        let mut chart = ChartBuilder::on(&root)
            .margin_top(legend + 16)
            .margin_right(40)
            .margin_bottom(8)
            .margin_left(8)
            .x_label_area_size(92)
            .y_label_area_size(130)
            .build_cartesian_2d(self.x.clone(), self.y.clone())?;
        chart
            .configure_mesh()
            .axis_style(INK.0.stroke_width(2))
            .bold_line_style(GRID.0.stroke_width(1))
            .label_style(("sans-serif", LETTERS).into_font().color(&INK.0))
            .x_desc(self.x.name.as_str())
            .y_desc(self.y.name.as_str())
            .draw()?;
        for line in &self.lines {
            let colour = line.hue.ink().0;
            let inside = |(x, y): &(f64, f64)| self.x.holds(*x) && self.y.holds(*y);
            let points: Vec<_> = line.points.iter().copied().filter(inside).collect();
            chart.draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(STROKE)))?;
            if line.marks {
                chart.draw_series(points.iter().map(|point| Circle::new(*point, 8, colour.filled())))?;
            }
        }
        let place = chart.plotting_area().get_pixel_range();
        root.present()?;
        Ok(self.heat.as_ref().map_or_else(String::new, |heat| heat.paths(place)))
    }

    /// Draws the legend above the plot, where it hides nothing; gives its height.
    fn draw_legend(
        &self,
        root: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    ) -> Result<u32, Box<dyn std::error::Error>> {
        let (mut left, mut top) = (130, 0);
        let style = ("sans-serif", LETTERS).into_font().color(&INK.0).pos(Pos::new(HPos::Left, VPos::Center));
        for line in &self.lines {
            let wide = 110 + LETTER * u32::try_from(line.name.chars().count()).unwrap_or(0);
            if left > 130 && left + wide > SIZE.0 {
                (left, top) = (130, top + LEGEND);
            }
            let (x, y) = (left.cast_signed(), (top + LEGEND / 2).cast_signed());
            let stroke = line.hue.ink().0.stroke_width(STROKE);
            root.draw(&PathElement::new(vec![(x, y), (x + 60, y)], stroke))?;
            root.draw(&Text::new(line.name.as_str(), (x + 72, y), style.clone()))?;
            left += wide;
        }
        Ok(if self.lines.is_empty() { 0 } else { top + LEGEND })
    }
}

impl Heat {
    /// One path for each step of filling: neighbours in a row are one rectangle.
    fn paths(&self, (x, y): (Range<i32>, Range<i32>)) -> String {
        let columns = self.rows.iter().map(String::len).max().unwrap_or(0).max(1);
        let (wide, high) = (
            f64::from(x.end - x.start) / columns as f64,
            f64::from(y.end - y.start) / self.rows.len().max(1) as f64,
        );
        let mut steps: [String; 10] = Default::default();
        for (number, row) in self.rows.iter().enumerate() {
            let top = f64::from(y.end) - high * (number + 1) as f64;
            let cells = row.as_bytes();
            let mut at = 0;
            while at < cells.len() {
                let run = cells[at..].iter().take_while(|cell| **cell == cells[at]).count();
                let step = usize::from(cells[at].saturating_sub(b'0')).min(9);
                let (left, length) = (f64::from(x.start) + wide * at as f64, wide * run as f64);
                // A String cannot fail to be written to.
                let _ = write!(steps[step], "M{left:.1} {top:.1}h{length:.1}v{high:.1}h-{length:.1}z");
                at += run;
            }
        }
        let colour = self.hue.ink().light();
        let path = |(step, path): (usize, &String)| {
            let filled = step as f64 / 9.0;
            format!("<path fill=\"{colour}\" stroke=\"none\" fill-opacity=\"{filled:.2}\" d=\"{path}\"/>\n")
        };
        // What is empty needs no paint.
        steps.iter().enumerate().skip(1).filter(|(_, path)| !path.is_empty()).map(path).collect()
    }
}

/// The style sheet for plots: within a page once, within a file of its own each.
pub fn style() -> String {
    let inks = || [("ink", &INK), ("grid", &GRID)].into_iter().map(|(name, ink)| (name.to_owned(), ink));
    let inks = || inks().chain(INKS.iter().enumerate().map(|(number, ink)| (format!("c{number}"), ink)));
    let (mut light, mut dark, mut rules) = (String::new(), String::new(), String::new());
    for (name, ink) in inks() {
        let colour = ink.light();
        let _ = write!(light, "--{name}:{colour};");
        let _ = write!(dark, "--{name}:{};", ink.1);
        let _ = writeln!(rules, "svg [stroke=\"{colour}\"]{{stroke:var(--{name})}}");
        let _ = writeln!(rules, "svg [fill=\"{colour}\"]{{fill:var(--{name})}}");
        if !ink.2.is_empty() {
            let _ = writeln!(rules, "svg polyline[stroke=\"{colour}\"]{{stroke-dasharray:{}}}", ink.2);
        }
    }
    format!(
        ":root{{--paper:#FFFFFF;{light}}}\n\
         @media screen and (prefers-color-scheme:dark){{:root{{--paper:#161616;{dark}}}}}\n\
         svg [fill=\"#FFFFFF\"]{{fill:var(--paper)}}\n{rules}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot() -> Plot {
        let points = vec![(1.0, 2.0), (10.0, f64::NAN), (100.0, 30.0), (1000.0, f64::INFINITY)];
        let line = Line { name: "<a> & \"b\"".to_owned(), hue: Hue::Proxy(1), points, marks: true };
        Plot {
            id: "p".to_owned(),
            title: "A <title>".to_owned(),
            about: "About & about".to_owned(),
            x: Axis::log("x", [1.0, 1000.0].into_iter(), 0.1),
            y: Axis::linear("y", [30.0].into_iter()),
            lines: vec![line],
            heat: Some(Heat { hue: Hue::Proxy(0), rows: vec!["009950".to_owned(), "999999".to_owned()] }),
        }
    }

    #[test]
    fn a_plot_is_well_formed_and_names_are_escaped() {
        let text = plot().file().unwrap();
        let svg = roxmltree::Document::parse(&text).unwrap();
        assert!(!text.contains("NaN") && !text.contains("inf\""), "{text}");
        let title = svg.descendants().find(|node| node.has_tag_name("title")).unwrap();
        assert_eq!(title.text(), Some("A <title>"));
        let words: String = svg.descendants().filter(|n| n.is_text()).filter_map(|n| n.text()).collect();
        assert!(words.contains("<a> & \"b\""), "{words}");
        let lines = svg.descendants().filter(|node| node.has_tag_name("polyline")).count();
        assert!(lines >= 2, "{text}");
        // 99 in the first row, all of the second; 5 alone.
        let heat = |n: &roxmltree::Node<'_, '_>| n.has_tag_name("path");
        let paths: Vec<_> = svg.descendants().filter(heat).filter_map(|n| n.attribute("d")).collect();
        assert_eq!(paths.iter().map(|path| path.matches('M').count()).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn values_stand_where_the_axis_says() {
        let log = Axis::log("x", [1.0, 100.0].into_iter(), 0.1);
        assert_eq!(
            [0.9, (0.9_f64 * 110.0).sqrt(), 110.0].map(|value| log.map(&value, (0, 1000))),
            [0, 500, 1000]
        );
        let linear = Axis::linear("y", [25.0, 50.0].into_iter());
        assert!(linear.holds(50.0) && linear.holds(0.0) && !linear.holds(f64::NAN));
        assert_eq!(Axis::between("y", 0.0, 50.0).map(&25.0, (640, 0)), 320);
        let x = Axis::between("x", 0.0, 20.0);
        let points = (0..=40).map(|n| (f64::from(n) / 2.0 + 0.1, 1.0)).collect();
        let line = Line { name: String::new(), hue: Hue::Ideal, points, marks: false };
        let plot = Plot { x, lines: Vec::new(), ..plot() };
        let shown: Vec<f64> = plot.shown(&line).iter().map(|point| point.0).collect();
        assert_eq!(shown, plot.x.ticks.iter().map(|tick| tick + 0.1).collect::<Vec<_>>());
    }

    #[test]
    fn cells_are_filled_from_below_and_from_the_left() {
        let heat = Heat { hue: Hue::Proxy(0), rows: vec!["09".to_owned(), "90".to_owned()] };
        let paths = heat.paths((100..160, 0..20));
        assert!(paths.contains("d=\"M130.0 10.0h30.0v10.0h-30.0zM100.0 0.0h30.0v10.0h-30.0z\""), "{paths}");
    }

    #[test]
    fn proxies_have_colours_of_their_own() {
        let inks = |hue: Hue| hue.ink().light();
        let mut all: Vec<_> = (0..6).map(Hue::Proxy).chain([Hue::Ideal, Hue::Theory]).map(inks).collect();
        assert_eq!(inks(Hue::Proxy(6)), all[0]);
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 8);
    }

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(Axis::between("x", 0.0, 1.0).ticks, [0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]);
        assert_eq!(
            Axis::log("x", [1.0, 128.0].into_iter(), 0.1).ticks,
            [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]
        );
        assert_eq!(Axis::log("x", std::iter::empty(), 0.1).ticks.len(), 4);
        // However close together values are, two ticks say where they stand.
        for n in 10..=100 {
            for size in [0.01, 0.1, 10.0] {
                let axis = Axis::log("x", std::iter::once(f64::from(n) * size), 0.01);
                assert!(axis.ticks.len() >= 2, "{axis:?}");
                assert!(axis.ticks.iter().all(|tick| axis.holds(*tick)), "{axis:?}");
            }
        }
        assert_eq!(Axis::linear("x", [f64::NAN].into_iter()).to, 1.0);
        assert_eq!(
            [0.25, 12.0, 40_000.0, 0.0, 0.001, 1234.0].map(short),
            ["0.25", "12", "40k", "0", "0.001", "1234"]
        );
    }
}
