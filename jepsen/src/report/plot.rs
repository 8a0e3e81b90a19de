//! Plots as SVG: latencies, rates, and what was broken when, all on one axis of time.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::series::{Ended, Kind, SPANS, Series};
use super::{escape, seconds};
use crate::history::{Fault, Led, Nanos};
use crate::model::Model;

const WIDTH: f64 = 1000.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 24.0;
const ROW: f64 = 22.0;
/// What a node's number takes.
const NUMBER_WIDTH: f64 = 16.0;
/// Of bars that stand for nodes.
const COLOURS: [&str; 6] = ["append", "read", "outcome", "ok", "fail", "info"];
/// Latencies from 100 µs to 100 s.
const DECADES: std::ops::RangeInclusive<i32> = -4..=2;

/// A plot under way.
struct Plot<'a> {
    svg: String,
    height: f64,
    length: Nanos,
    model: &'a Model,
}

impl<'a> Plot<'a> {
    fn new(model: &'a Model, length: Nanos, height: f64, label: &str) -> Self {
        let total = TOP + height + BOTTOM;
        let svg = format!(
            "<svg class=\"plot\" viewBox=\"0 0 {WIDTH} {total}\" role=\"img\" aria-label=\"{}\">\n",
            escape(label)
        );
        let mut plot = Self { svg, height, length, model };
        plot.time_axis();
        plot
    }

    fn x(&self, at: Nanos) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * at.min(self.length) as f64 / self.length as f64
    }

    fn push(&mut self, text: std::fmt::Arguments<'_>) {
        self.svg.write_fmt(text).expect("a string takes everything");
        self.svg.push('\n');
    }

    fn time_axis(&mut self) {
        let step = round_step(self.length as f64 / 1e9 / 8.0);
        let mut second = 0.0;
        while second * 1e9 <= self.length as f64 {
            let (x, bottom) = (self.x((second * 1e9) as Nanos), TOP + self.height);
            self.push(format_args!(
                "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/>\
                 <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{second} s</text>",
                bottom + 16.0
            ));
            second += step;
        }
    }

    /// A line across, with its value.
    fn level(&mut self, y: f64, label: &str) {
        self.push(format_args!(
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            y + 4.0,
            escape(label)
        ));
    }

    /// Shades the times of faults, and marks the end of the last.
    fn faults(&mut self) {
        for fault in &self.model.faults {
            let (x, end) = (self.x(fault.from), self.x(fault.to));
            let (height, width) = (self.height, (end - x).max(1.5));
            self.push(format_args!(
                "<rect class=\"window\" x=\"{x:.1}\" y=\"{TOP}\" width=\"{width:.1}\" height=\"{height}\">\
                 <title>{}</title></rect>",
                escape(&caption(fault))
            ));
        }
        if let Some(healed) = self.model.run.healed_at {
            let (x, bottom) = (self.x(healed), TOP + self.height);
            self.push(format_args!(
                "<line class=\"healed\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{bottom}\">\
                 <title>healed at {} s</title></line>",
                seconds(healed)
            ));
        }
    }

    /// A bar from when a node was known to lead until another line says otherwise.
    fn tenure(&mut self, led: &Led, end: Nanos, y: f64) {
        let Some(node) = led.leader else { return };
        let (x, width) = (self.x(led.at), (self.x(end) - self.x(led.at) - 1.0).max(1.0));
        let colour = COLOURS[node as usize % COLOURS.len()];
        self.push(format_args!(
            "<rect style=\"fill:var(--{colour})\" x=\"{x:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{:.1}\">\
             <title>node {node} leads group {} from {} s, term {}</title></rect>",
            y + 3.0,
            ROW - 6.0,
            led.group,
            seconds(led.at),
            led.term
        ));
        if width > NUMBER_WIDTH {
            self.push(format_args!(
                "<text x=\"{:.1}\" y=\"{:.1}\" style=\"fill:var(--page)\">{node}</text>",
                x + 3.0,
                y + ROW - 7.0
            ));
        }
    }

    fn finish(mut self) -> String {
        self.svg.push_str("</svg>\n");
        self.svg
    }
}

fn caption(fault: &Fault) -> String {
    let (from, to) = (seconds(fault.from), seconds(fault.to));
    format!("{} of nodes {:?}, {from} to {to} s: {}", fault.nemesis, fault.nodes, fault.what)
}

/// 1, 2 or 5 times a power of ten, not below.
fn round_step(least: f64) -> f64 {
    let power = 10_f64.powf(least.max(1e-9).log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= least);
    factor.unwrap_or(10.0) * power
}

/// A mark of a kind of operation: each has a shape as well as a colour. `is_solid`: the median; hollow: p99.
fn mark(kind: Kind, x: f64, y: f64, is_solid: bool) -> String {
    let fill = if is_solid { "solid" } else { "hollow" };
    match kind {
        Kind::Append => {
            format!("<circle class=\"append {fill}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.6\"/>")
        }
        Kind::Read => format!(
            "<rect class=\"read {fill}\" x=\"{:.1}\" y=\"{:.1}\" width=\"4.8\" height=\"4.8\"/>",
            x - 2.4,
            y - 2.4
        ),
        Kind::Outcome => {
            format!("<path class=\"outcome {fill}\" d=\"M{x:.1} {:.1}l3.2 5.4h-6.4z\"/>", y - 3.2)
        }
    }
}

/// Latency over time: median and 99th percentile of each span, by operation; and what ended with no known outcome.
pub fn latency(model: &Model, series: &Series) -> String {
    let height = 300.0;
    let (low, high) = (f64::from(*DECADES.start()), f64::from(*DECADES.end()));
    let y = |nanos: Nanos| {
        let exponent = (nanos.max(1) as f64 / 1e9).log10().clamp(low, high);
        TOP + height * (high - exponent) / (high - low)
    };
    let mut plot = Plot::new(model, series.length, height, "Latency over time, logarithmic");
    for (decade, label) in
        DECADES.zip(["100 µs", "1 ms", "10 ms", "100 ms", "1 s", "10 s", "100 s"])
    {
        plot.level(y(10_f64.powi(decade + 9) as Nanos), label);
    }
    plot.faults();
    for (at, slot) in series.slots.iter().enumerate() {
        let x = plot.x(series.middle(at));
        for kind in [Kind::Append, Kind::Read, Kind::Outcome] {
            for (share, is_solid) in [(0.99, false), (0.5, true)] {
                if let Some(latency) = slot.quantile(kind, Ended::Ok, share) {
                    plot.push(format_args!("{}", mark(kind, x, y(latency), is_solid)));
                }
            }
            if let Some(latency) = slot.quantile(kind, Ended::Info, 0.5) {
                let y = y(latency);
                plot.push(format_args!(
                    "<path class=\"info hollow\" d=\"M{:.1} {:.1}l5 5m0 -5l-5 5\"/>",
                    x - 2.5,
                    y - 2.5
                ));
            }
        }
    }
    plot.finish()
}

/// Operations a second over time, by how they ended.
pub fn rates(model: &Model, series: &Series) -> String {
    let height = 180.0;
    let endings = [(Ended::Ok, "ok"), (Ended::Fail, "fail"), (Ended::Info, "info")];
    let all = (0..SPANS).flat_map(|slot| endings.map(|(ended, _)| series.rate(slot, ended)));
    let step = round_step(all.fold(1.0, f64::max) / 4.0);
    let top = step * 4.0;
    let y = |rate: f64| TOP + height * (1.0 - rate / top);
    let mut plot = Plot::new(model, series.length, height, "Operations a second over time");
    for level in 0..=4 {
        let rate = step * f64::from(level);
        plot.level(y(rate), &format!("{rate}/s"));
    }
    plot.faults();
    for (ended, class) in endings {
        let points = (0..SPANS).map(|slot| {
            format!("{:.1},{:.1}", plot.x(series.middle(slot)), y(series.rate(slot, ended)))
        });
        let points = points.collect::<Vec<_>>().join(" ");
        plot.push(format_args!("<polyline class=\"{class}\" points=\"{points}\"/>"));
    }
    plot.finish()
}

/// What was broken when, a row for each nemesis. One that was not seen to take effect is only outlined.
pub fn timeline(model: &Model, length: Nanos) -> String {
    let mut names: Vec<&str> = model.faults.iter().map(|fault| fault.nemesis.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let height = ROW * names.len().max(1) as f64;
    let mut plot = Plot::new(model, length, height, "What was broken when");
    for (row, name) in names.iter().enumerate() {
        let y = TOP + ROW * row as f64;
        for fault in model.faults.iter().filter(|fault| fault.nemesis == *name) {
            let (x, end) = (plot.x(fault.from), plot.x(fault.to));
            let class = if fault.effect.is_some() { "bar" } else { "bar idle" };
            plot.push(format_args!(
                "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\">\
                 <title>{}</title></rect>",
                y + 3.0,
                (end - x).max(2.0),
                ROW - 6.0,
                escape(&caption(fault))
            ));
        }
        let x = LEFT + 4.0;
        plot.push(format_args!(
            "<text x=\"{x}\" y=\"{:.1}\" style=\"fill:var(--text)\">{}</text>",
            y + ROW - 7.0,
            escape(name)
        ));
    }
    plot.finish()
}

/// Who led when, a row for each group; a gap where nobody was known to lead. Each bar has the number of its node, and a
/// colour that it shares with others only where there are more nodes than colours.
pub fn leaders(model: &Model, length: Nanos) -> String {
    let mut groups: BTreeMap<u64, Vec<&Led>> = BTreeMap::new();
    for led in &model.leaders {
        groups.entry(led.group).or_default().push(led);
    }
    let mut plot = Plot::new(model, length, ROW * groups.len() as f64, "Who led when");
    plot.faults();
    for (row, (group, terms)) in groups.iter().enumerate() {
        let y = TOP + ROW * row as f64;
        plot.push(format_args!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">group {group}</text>",
            LEFT - 6.0,
            y + ROW - 7.0
        ));
        let ends = terms.iter().skip(1).map(|next| next.at).chain([length]);
        for (led, end) in terms.iter().zip(ends) {
            plot.tenure(led, end, y);
        }
    }
    plot.finish()
}

/// What the marks of the latency plot mean.
pub fn latency_legend() -> String {
    let item = |mark: &str, text: &str| {
        format!("<li><svg viewBox=\"0 0 14 14\" aria-hidden=\"true\">{mark}</svg>{text}</li>")
    };
    let kinds = [(Kind::Append, "append"), (Kind::Read, "read"), (Kind::Outcome, "outcome query")];
    let mut items: String =
        kinds.iter().map(|(kind, name)| item(&mark(*kind, 7.0, 7.0, true), name)).collect();
    items += &item(&mark(Kind::Append, 7.0, 7.0, false), "hollow: 99th percentile; solid: median");
    let cross = "<path class=\"info hollow\" d=\"M4.5 4.5l5 5m0 -5l-5 5\"/>";
    items += &item(cross, "outcome unknown");
    items +=
        &item("<rect class=\"window\" x=\"1\" y=\"1\" width=\"12\" height=\"12\"/>", "a fault");
    let healed = "<line class=\"healed\" x1=\"7\" x2=\"7\" y1=\"0\" y2=\"14\"/>";
    items += &item(healed, "all mended");
    format!("<ul class=\"legend\">{items}</ul>\n")
}

/// What the lines of the rates mean.
pub fn rates_legend() -> String {
    let item = |class: &str, text: &str| {
        let line = format!("<polyline class=\"{class}\" points=\"0,7 14,7\"/>");
        format!("<li><svg viewBox=\"0 0 14 14\" aria-hidden=\"true\">{line}</svg>{text}</li>")
    };
    let items = [("ok", "succeeded"), ("fail", "failed for certain"), ("info", "outcome unknown")];
    let items: String = items.iter().map(|(class, text)| item(class, text)).collect();
    format!("<ul class=\"legend\">{items}</ul>\n")
}
