//! The list of figures, as JSON and as a page.

use std::{fs, path::Path, process::Command};

use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Figure {
    name: String,
    value: f64,
    unit: String,
    floor: Option<f64>,
    ratio: Option<f64>,
    goal: String,
    met: bool,
}

#[derive(Default)]
pub struct Figures(Vec<Figure>);

/// What a figure is held against.
pub enum Goal {
    /// The figure is a rate; the floor's rate over it stays at or below this.
    Slower(f64),
    /// The figure is a duration or a size; it over the floor's stays at or below this.
    TimesFloor(f64),
    Most(f64),
}

impl Figures {
    pub fn add(&mut self, name: impl Into<String>, value: f64, unit: &'static str, floor: Option<f64>, goal: Goal) {
        let name = name.into();
        let ratio = floor.map(|floor| match goal {
            Goal::Slower(_) => floor / value,
            _ => value / floor,
        });
        let (met, goal) = match goal {
            Goal::Slower(most) => (ratio.is_some_and(|r| r <= most), format!("floor / value ≤ {most}")),
            Goal::TimesFloor(most) => (ratio.is_some_and(|r| r <= most), format!("value / floor ≤ {most}")),
            Goal::Most(most) => (value <= most, format!("≤ {most} {unit}")),
        };
        let shown = |number: Option<f64>| number.map_or_else(|| "-".to_owned(), |number| format!("{number:.3}"));
        println!(
            "{} {name}: {value:.3} {unit}, floor {}, ratio {}, goal {goal}",
            if met { "met   " } else { "MISSED" },
            shown(floor),
            shown(ratio)
        );
        self.0.push(Figure { name, value, unit: unit.to_owned(), floor, ratio, goal, met });
    }

    /// Takes over what the benches of single crates printed, one figure per line.
    pub fn import(&mut self, lines: &str) {
        self.0.extend(lines.lines().filter_map(|line| serde_json::from_str::<Figure>(line).ok()));
    }

    pub fn write(&self, full: bool) {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        fs::create_dir_all(root.join("target")).unwrap();
        fs::write(root.join("target/bench.json"), serde_json::to_string_pretty(&self.0).unwrap()).unwrap();
        // A smoke run shows that everything is measured; its figures are not worth a page.
        if !crate::is_size("smoke") {
            fs::write(root.join("docs/reference/performance.md"), self.page(full)).unwrap();
        }
        let missed = self.0.iter().filter(|figure| !figure.met).count();
        println!(
            "{} figures, {missed} missed their goal; target/bench.json, docs/reference/performance.md",
            self.0.len()
        );
    }

    fn page(&self, full: bool) -> String {
        let cell = |number: Option<f64>| number.map_or_else(|| "–".to_owned(), round);
        let rows: String = self
            .0
            .iter()
            .map(|figure| {
                format!(
                    "| {} | {} {} | {} | {} | {} | {} |\n",
                    figure.name,
                    round(figure.value),
                    figure.unit,
                    cell(figure.floor),
                    cell(figure.ratio),
                    figure.goal,
                    if figure.met { "yes" } else { "**no**" }
                )
            })
            .collect();
        format!(
            "# Performance\n\nWritten by `make bench` ({} sizes) on: {}.\n\nEvery floor is measured in the same run, by the \
             least code that does the same work without nexum. Rates and times are\nmedians unless the name says \
             otherwise. The machine is shared, so ratios say more than figures.\n\n| what | value | floor | ratio | goal | \
             met |\n|---|---|---|---|---|---|\n{rows}",
            if full { "full" } else { "short" },
            machine(),
        )
    }
}

fn round(number: f64) -> String {
    if number >= 100.0 { format!("{number:.0}") } else { format!("{number:.3}") }
}

fn machine() -> String {
    let model = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = model
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .unwrap_or("")
        .trim_start_matches([' ', '\t', ':']);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel =
        Command::new("uname").arg("-sr").output().map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned());
    format!("{cores} cores of {model}, {}", kernel.unwrap_or_default())
}

/// The median of some samples.
pub fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

/// What `of` of some samples do not exceed, from 0 to 1.
pub fn quantile(samples: &[f64], of: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len() as f64 * of).ceil() as usize;
    sorted[at.clamp(1, sorted.len()) - 1]
}
