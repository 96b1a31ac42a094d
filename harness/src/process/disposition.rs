//! What a process does with a signal, by the kernel's word: proc_pid_status(5).

use nix::sys::signal::Signal;

/// What a process does with a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// The default action ends it.
    Default,
    /// It has no handler and is the first process of a namespace: the kernel drops the signal.
    DroppedAsFirst,
    /// Nothing.
    Ignored,
    /// By a handler, or, where it is blocked, perhaps by sigwait(3) or signalfd(2). The runtimes of Go, Java and
    /// Node.js have one of their own: nothing is told of them.
    Taken,
}

impl Disposition {
    /// Asks the kernel; `None` where the process has ended, or the system has no /proc.
    pub fn of(pid: i32, signal: Signal) -> Option<Self> {
        Self::parse(&std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?, signal)
    }

    fn parse(status: &str, signal: Signal) -> Option<Self> {
        let bit = 1u64 << (signal as i32 - 1);
        let field = |name| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let has = |name| Some(u64::from_str_radix(field(name)?, 16).ok()? & bit != 0);
        let first = field("NSpid:").is_some_and(|pids| pids.split_whitespace().last() == Some("1"));
        Some(match (has("SigIgn:")?, has("SigCgt:")? || has("SigBlk:")?) {
            (true, _) => Self::Ignored,
            (false, true) => Self::Taken,
            (false, false) if first => Self::DroppedAsFirst,
            (false, false) => Self::Default,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_what_becomes_of_a_signal() {
        const TERM: u64 = 1 << 14;
        let of = |blocked: u64, ignored: u64, caught: u64, pids: &str| {
            let sets = format!("SigBlk:\t{blocked:016x}\nSigIgn:\t{ignored:016x}\nSigCgt:\t{caught:016x}\n");
            Disposition::parse(&format!("Name:\tserver\nNSpid:\t{pids}\n{sets}"), Signal::SIGTERM)
        };
        assert_eq!(of(0, 0, 0, "4711"), Some(Disposition::Default));
        assert_eq!(of(0, 0, !TERM, "4711"), Some(Disposition::Default));
        assert_eq!(of(0, 0, 0, "4711\t1"), Some(Disposition::DroppedAsFirst));
        assert_eq!(of(0, TERM, 0, "4711"), Some(Disposition::Ignored));
        assert_eq!(of(0, 0, TERM, "4711\t1"), Some(Disposition::Taken));
        assert_eq!(of(TERM, 0, 0, "4711"), Some(Disposition::Taken));
        assert_eq!(Disposition::parse("Name:\tserver\n", Signal::SIGTERM), None);
    }

    #[test]
    fn this_process_can_be_asked() {
        let own = std::process::id().cast_signed();
        assert_eq!(Disposition::of(own, Signal::SIGUSR2), Some(Disposition::Default));
        assert_eq!(Disposition::of(i32::MAX, Signal::SIGTERM), None);
    }
}
