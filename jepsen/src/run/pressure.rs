//! How busy the machine was: what is promised within a time cannot be held on one that is far too busy.

use std::time::Duration;

use tokio::time::Instant;

/// Linux's [pressure stall information](https://docs.kernel.org/accounting/psi.html), of the whole machine.
const CPU: &str = "/proc/pressure/cpu";

/// From its beginning on.
pub struct Pressure {
    began: Instant,
    /// None where the kernel does not say.
    stalled: Option<Duration>,
}

impl Pressure {
    /// Begins.
    pub fn begin() -> Pressure {
        Pressure { began: Instant::now(), stalled: read() }
    }

    /// The share of the time until now in which something waited for a processor, from 0 to 1.
    pub fn share(&self) -> Option<f64> {
        let stalled = read()?.saturating_sub(self.stalled?);
        Some((stalled.as_secs_f64() / self.began.elapsed().as_secs_f64()).min(1.0))
    }
}

fn read() -> Option<Duration> {
    total(&std::fs::read_to_string(CPU).ok()?)
}

/// How long something has waited since the machine was started.
fn total(pressure: &str) -> Option<Duration> {
    let some = pressure.lines().find(|line| line.starts_with("some "))?;
    let total = some.split_whitespace().find_map(|word| word.strip_prefix("total="))?;
    total.parse().ok().map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_understood() {
        let text = "some avg10=36.76 avg60=43.70 avg300=45.65 total=9629848412\n\
                    full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n";
        assert_eq!(total(text), Some(Duration::from_micros(9_629_848_412)));
        assert_eq!(total("nothing of the kind"), None);
        let pressure = Pressure { began: Instant::now(), stalled: None };
        assert_eq!(pressure.share(), None);
    }
}
