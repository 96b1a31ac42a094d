//! Speed, measured as ratios within one run: both sides of each ratio in turn, round by round, on the same machine
//! in the same minutes. A single absolute time says little on a shared machine.

mod bare;
mod exit;
mod throughput;
mod wall;

pub use bare::LANGUAGES;
pub use exit::exit_after_last_byte;
pub use throughput::{against_naive, against_oha, in_flight_accounted};
pub use wall::against_lower_bound;

/// One measured figure and its bar.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Figure {
    /// What was measured.
    pub name: String,
    /// The median over all rounds.
    pub median: f64,
    /// The least and the greatest of all rounds.
    pub range: (f64, f64),
    /// What the number is: `ms`, `s` or `ratio`.
    pub unit: &'static str,
    /// So many rounds.
    pub rounds: usize,
    /// The bar.
    pub bar: Bar,
}

/// What a figure must reach.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bar {
    /// At least this.
    AtLeast(f64),
    /// At most this.
    AtMost(f64),
}

/// Why a figure could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A program that it needs is not installed, or does not run.
    #[error("{program}: {why}")]
    Program {
        /// The program.
        program: String,
        /// What is wrong.
        why: String,
    },
    /// A server did not start or did not answer.
    #[error("{server}: {why}")]
    Server {
        /// The server.
        server: String,
        /// What is wrong.
        why: String,
    },
    /// Something could not be read or written.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

impl Figure {
    /// A figure from its rounds; `None` without any.
    pub fn of(name: impl Into<String>, unit: &'static str, bar: Bar, values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (first, last) = (sorted.first()?, sorted.last()?);
        Some(Self {
            name: name.into(),
            median: sorted[sorted.len() / 2],
            range: (*first, *last),
            unit,
            rounds: sorted.len(),
            bar,
        })
    }

    /// Whether the median reaches the bar.
    pub fn reached(&self) -> bool {
        match self.bar {
            Bar::AtLeast(bar) => self.median >= bar,
            Bar::AtMost(bar) => self.median <= bar,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_the_median_of_its_rounds() {
        let figure = Figure::of("x", "ms", Bar::AtMost(2.0), &[9.0, 1.0, 2.0]).unwrap();
        assert_eq!((figure.median, figure.range, figure.rounds), (2.0, (1.0, 9.0), 3));
        assert!(figure.reached());
        assert!(!Figure { bar: Bar::AtMost(1.9), ..figure.clone() }.reached());
        assert!(Figure { bar: Bar::AtLeast(2.0), ..figure.clone() }.reached());
        assert!(Figure::of("x", "ms", Bar::AtMost(2.0), &[]).is_none());
    }
}
