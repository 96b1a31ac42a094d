//! What a person, or a program, reads of the results.

mod excerpt;
mod failures;
mod markdown;
mod progress;
mod style;
mod table;

pub use excerpt::excerpt;
pub use failures::failures;
pub use markdown::markdown;
pub use progress::Progress;
pub use style::{paint, verdict_style};
pub use table::{all_played_again, played_again, skipped, summary, table};
