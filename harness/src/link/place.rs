//! Where a process or a socket is.

use std::io;
use std::sync::Arc;

#[cfg(target_os = "linux")]
use super::namespace::Namespace;

/// Network namespaces are known on Linux only: elsewhere there is no value of this type.
#[cfg(not(target_os = "linux"))]
#[derive(Debug)]
pub enum Namespace {}

#[cfg(not(target_os = "linux"))]
impl Namespace {
    fn number(&self) -> u64 {
        match *self {}
    }

    fn enter(&self) -> io::Result<()> {
        match *self {}
    }
}

/// Where a process or a socket is: where the harness is itself, or in a network namespace of its own. A socket
/// belongs for ever to the place in which it was made, whoever uses it afterwards. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Place(Option<Arc<Namespace>>);

impl Place {
    /// Where the harness is itself.
    pub const HERE: Self = Self(None);

    #[cfg(target_os = "linux")]
    pub(super) fn in_namespace(namespace: Namespace) -> Self {
        Self(Some(Arc::new(namespace)))
    }

    /// A number that tells places apart.
    pub fn number(&self) -> u64 {
        self.0.as_ref().map_or(0, |namespace| namespace.number())
    }

    /// Puts the calling thread there for the rest of its life. Makes one system call and nothing else, so that it
    /// may be called between fork and exec.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn enter(&self) -> io::Result<()> {
        self.0.as_ref().map_or(Ok(()), |namespace| namespace.enter())
    }

    /// Does something there that is done at once, such as making a socket. Away from here a thread of its own does
    /// it, so that none of ours can get stuck in the wrong place.
    ///
    /// # Errors
    /// When the place cannot be entered.
    ///
    /// # Panics
    /// Where `act` does.
    pub fn within<T: Send>(&self, act: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        if self.0.is_none() {
            return act();
        }
        std::thread::scope(|scope| {
            let visit = std::thread::Builder::new().spawn_scoped(scope, || {
                self.enter()?;
                act()
            })?;
            visit.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}
