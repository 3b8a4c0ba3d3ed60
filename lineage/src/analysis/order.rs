//! Strongly connected components of the edges along which failures travel, providers before dependents.
//!
//! Tarjan's algorithm (1972) with an explicit stack, so that long chains do not overflow the thread's. It yields the components in the
//! order in which failures have to be computed.

use crate::snapshot::{Graph, NONE, PROPAGATES};

/// Components and their order.
#[derive(Debug)]
pub(crate) struct Order {
    /// By node, its component. Components of providers have lower numbers than those of their dependents.
    pub component: Vec<u32>,
    /// How many nodes each has.
    pub size: Vec<u32>,
    /// Nodes by component, and within one so that few of its edges lead backwards.
    pub nodes: Vec<u32>,
    /// By node, its place in `nodes`.
    pub rank: Vec<u32>,
}

struct Search<'a> {
    graph: &'a Graph,
    index: Vec<u32>,
    low: Vec<u32>,
    open: Vec<u32>,
    order: Order,
    next: u32,
    /// Nodes in the order in which they were left.
    left: Vec<u32>,
}

impl Order {
    /// Finds all components.
    pub fn of(graph: &Graph) -> Self {
        let len = graph.len();
        let order = Self { component: vec![NONE; len], size: Vec::new(), nodes: vec![0; len], rank: vec![0; len] };
        let (index, low, left) = (vec![NONE; len], vec![0; len], Vec::with_capacity(len));
        let mut search = Search { graph, index, low, open: Vec::new(), order, next: 0, left };
        for node in 0..len as u32 {
            if search.index[node as usize] == NONE {
                search.from(node);
            }
        }
        let (mut order, left) = (search.order, search.left);
        order.place(&left);
        order
    }

    /// Sorts nodes by component, and those of one as they were left.
    fn place(&mut self, left: &[u32]) {
        let mut next = Vec::with_capacity(self.size.len());
        let mut start = 0;
        for size in &self.size {
            next.push(start);
            start += size;
        }
        for node in left {
            let slot = &mut next[self.component[*node as usize] as usize];
            self.nodes[*slot as usize] = *node;
            self.rank[*node as usize] = *slot;
            *slot += 1;
        }
    }
}

impl Search<'_> {
    fn from(&mut self, root: u32) {
        let mut path = vec![(root, self.graph.out(root))];
        self.enter(root);
        while let Some((node, edges)) = path.last_mut() {
            let node = *node;
            let Some(e) = edges.next() else {
                path.pop();
                self.leave(node);
                if let Some((parent, _)) = path.last() {
                    self.low[*parent as usize] = self.low[*parent as usize].min(self.low[node as usize]);
                }
                continue;
            };
            let edge = &self.graph.edges[e];
            if edge.marks & PROPAGATES == 0 {
                continue;
            }
            let to = edge.to;
            if self.index[to as usize] == NONE {
                self.enter(to);
                path.push((to, self.graph.out(to)));
            } else if self.order.component[to as usize] == NONE {
                self.low[node as usize] = self.low[node as usize].min(self.index[to as usize]);
            }
        }
    }

    fn enter(&mut self, node: u32) {
        self.index[node as usize] = self.next;
        self.low[node as usize] = self.next;
        self.next += 1;
        self.open.push(node);
    }

    fn leave(&mut self, node: u32) {
        self.left.push(node);
        if self.low[node as usize] != self.index[node as usize] {
            return;
        }
        let component = self.order.size.len() as u32;
        let mut size = 0;
        while let Some(member) = self.open.pop() {
            self.order.component[member as usize] = component;
            size += 1;
            if member == node {
                break;
            }
        }
        self.order.size.push(size);
    }
}

impl Graph {
    /// Components, found at the first call.
    pub(crate) fn order(&self) -> &Order {
        self.order.get_or_init(|| Order::of(self))
    }
}
