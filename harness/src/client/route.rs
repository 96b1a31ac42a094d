//! Where the next connection goes.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Where the next connection goes. Connections that are open stay where they are. Cheap to clone.
#[derive(Debug, Clone)]
pub enum Route {
    /// Always to the same address.
    One(SocketAddr),
    /// To those of a table, in turn.
    Table(Arc<Table>),
    /// By the table of a node, each node in turn: where a connection comes in decides who gets it.
    Nodes(Arc<Nodes>),
}

/// The tables of nodes, which need not agree.
#[derive(Debug)]
pub struct Nodes {
    tables: Vec<Arc<Table>>,
    turn: AtomicUsize,
}

/// Addresses that may change while clients use them, as the table of a Service does on a node, or the answer of a name
/// server.
#[derive(Debug, Default)]
pub struct Table {
    addresses: Mutex<Vec<SocketAddr>>,
    turn: AtomicUsize,
}

impl Route {
    /// The address for the next connection; `None` where there is none at the moment.
    pub fn next(&self) -> Option<SocketAddr> {
        match self {
            Self::One(address) => Some(*address),
            Self::Table(table) => table.next(),
            Self::Nodes(nodes) => nodes.next(),
        }
    }

    /// By the tables of these nodes.
    pub fn nodes(tables: Vec<Arc<Table>>) -> Self {
        Self::Nodes(Arc::new(Nodes { tables, turn: AtomicUsize::default() }))
    }
}

impl Nodes {
    fn next(&self) -> Option<SocketAddr> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        self.tables.get(turn % self.tables.len().max(1))?.next()
    }
}

impl Table {
    /// From now on these.
    pub fn set(&self, addresses: Vec<SocketAddr>) {
        *self.addresses.lock().unwrap_or_else(PoisonError::into_inner) = addresses;
    }

    fn next(&self) -> Option<SocketAddr> {
        let addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        (!addresses.is_empty()).then(|| addresses[turn % addresses.len()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_used_in_turn_and_may_be_empty() {
        let [a, b]: [SocketAddr; 2] = [([127, 0, 0, 1], 1).into(), ([127, 0, 0, 1], 2).into()];
        let table = Arc::new(Table::default());
        let route = Route::Table(table.clone());
        assert_eq!(route.next(), None);
        table.set(vec![a, b]);
        let taken: Vec<_> = (0..4).filter_map(|_| route.next()).collect();
        assert!(taken == [a, b, a, b] || taken == [b, a, b, a], "{taken:?}");
        table.set(vec![b]);
        assert_eq!((route.next(), route.next()), (Some(b), Some(b)));
    }
}
