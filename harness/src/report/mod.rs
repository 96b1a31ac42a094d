//! What a person, or a program, reads of the results.

mod check;
mod check_page;
mod excerpt;
mod failures;
mod fleets;
mod lanes;
mod markdown;
mod pods;
mod progress;
mod rollout;
mod style;
mod table;

pub use check::check;
pub use check_page::check_page;
pub use excerpt::excerpt;
pub use failures::failures;
pub use lanes::lanes;
pub use markdown::markdown;
pub use progress::Progress;
pub use rollout::rollout;
pub use style::{paint, tell, verdict_style};
pub use table::{all_played_again, overview, played_again, skipped, summary, unexpected};
