//! Cycles in a graph of dependencies: the search of [`super::serializability`], which knows nothing
//! of transactions.
//!
//! Strongly connected components by Tarjan's algorithm (1972), without recursion; a short cycle
//! inside one by breadth first search. O(nodes + edges) for the components; a cycle through each of
//! many edges costs that much per edge, which only a history that is already bad pays.

use std::collections::{HashMap, VecDeque};

/// Why one transaction comes before another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dependency {
    /// The second overwrites (appends after) what the first wrote.
    WriteWrite,
    /// The second reads what the first wrote.
    WriteRead,
    /// The second overwrites what the first read: the first did not see it.
    ReadWrite,
    /// The first was acknowledged before the second was called.
    RealTime,
    /// The first has the lower commit version.
    Version,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edge {
    pub from: usize,
    pub to: usize,
    pub dependency: Dependency,
    /// The key that shows it, for dependencies on data.
    pub key: Option<u64>,
}

#[derive(Debug, Default)]
pub struct Graph {
    edges: Vec<Edge>,
    /// Node → its edges.
    outgoing: Vec<Vec<usize>>,
}

impl Graph {
    pub fn new(nodes: usize) -> Graph {
        Graph { edges: Vec::new(), outgoing: vec![Vec::new(); nodes] }
    }

    pub fn add_node(&mut self) -> usize {
        self.outgoing.push(Vec::new());
        self.outgoing.len() - 1
    }

    pub fn add(&mut self, from: usize, to: usize, dependency: Dependency, key: Option<u64>) {
        if from != to {
            self.outgoing[from].push(self.edges.len());
            self.edges.push(Edge { from, to, dependency, key });
        }
    }

    fn successors(&self, node: usize, use_edge: &dyn Fn(&Edge) -> bool) -> Vec<usize> {
        let edges = self.outgoing[node].iter().map(|edge| &self.edges[*edge]);
        edges.filter(|edge| use_edge(edge)).map(|edge| edge.to).collect()
    }

    /// Groups of nodes that all lead to each other by edges that `use_edge` admits; single nodes
    /// are left out.
    pub fn components(&self, use_edge: &dyn Fn(&Edge) -> bool) -> Vec<Vec<usize>> {
        Components::of(self, use_edge)
    }

    /// The shortest way `from` → `to`, inside `component` if given, by edges that `use_edge`
    /// admits.
    fn path(&self, from: usize, to: usize, use_edge: &dyn Fn(&Edge) -> bool) -> Option<Vec<Edge>> {
        let mut reached_by: HashMap<usize, usize> = HashMap::new();
        let mut queue = VecDeque::from([from]);
        while let Some(node) = queue.pop_front() {
            for index in &self.outgoing[node] {
                let edge = &self.edges[*index];
                if !use_edge(edge) || reached_by.contains_key(&edge.to) {
                    continue;
                }
                reached_by.insert(edge.to, *index);
                if edge.to == to {
                    return Some(self.walk_back(from, to, &reached_by));
                }
                queue.push_back(edge.to);
            }
        }
        None
    }

    fn walk_back(&self, from: usize, to: usize, reached_by: &HashMap<usize, usize>) -> Vec<Edge> {
        let mut path = Vec::new();
        let mut node = to;
        loop {
            let edge = self.edges[reached_by[&node]];
            path.push(edge);
            node = edge.from;
            if node == from {
                path.reverse();
                return path;
            }
        }
    }

    /// A shortest cycle through one of the nodes, by edges that `use_edge` admits.
    pub fn cycle_through(&self, nodes: &[usize], use_edge: &dyn Fn(&Edge) -> bool) -> Option<Vec<Edge>> {
        const TRIES: usize = 64;
        nodes.iter().take(TRIES).filter_map(|node| self.path(*node, *node, use_edge)).min_by_key(Vec::len)
    }

    /// A cycle of one edge that `is_special` and others that are `use_edge` but not special.
    pub fn cycle_with_one(
        &self,
        is_special: &dyn Fn(&Edge) -> bool,
        use_edge: &dyn Fn(&Edge) -> bool,
    ) -> Option<Vec<Edge>> {
        const TRIES: usize = 5_000;
        let mut component = HashMap::new();
        for (number, nodes) in self.components(&|edge| is_special(edge) || use_edge(edge)).iter().enumerate() {
            component.extend(nodes.iter().map(|node| (*node, number)));
        }
        let within = |edge: &&Edge| {
            is_special(edge)
                && component.contains_key(&edge.from)
                && component.get(&edge.from) == component.get(&edge.to)
        };
        self.edges.iter().filter(within).take(TRIES).find_map(|special| {
            let mut cycle = self.path(special.to, special.from, &|edge| use_edge(edge) && !is_special(edge))?;
            cycle.insert(0, *special);
            Some(cycle)
        })
    }
}

/// Tarjan's algorithm with a stack of its own.
struct Components<'a> {
    graph: &'a Graph,
    use_edge: &'a dyn Fn(&Edge) -> bool,
    order: Vec<Option<usize>>,
    low: Vec<usize>,
    is_open: Vec<bool>,
    open: Vec<usize>,
    visited: usize,
    found: Vec<Vec<usize>>,
}

impl Components<'_> {
    fn of(graph: &Graph, use_edge: &dyn Fn(&Edge) -> bool) -> Vec<Vec<usize>> {
        let count = graph.outgoing.len();
        let mut components = Components {
            graph,
            use_edge,
            order: vec![None; count],
            low: vec![0; count],
            is_open: vec![false; count],
            open: Vec::new(),
            visited: 0,
            found: Vec::new(),
        };
        for node in 0..count {
            if components.order[node].is_none() {
                components.visit(node);
            }
        }
        components.found
    }

    fn enter(&mut self, node: usize) -> (usize, Vec<usize>) {
        self.order[node] = Some(self.visited);
        self.low[node] = self.visited;
        self.visited += 1;
        self.open.push(node);
        self.is_open[node] = true;
        (node, self.graph.successors(node, self.use_edge))
    }

    fn visit(&mut self, root: usize) {
        let mut stack = vec![self.enter(root)];
        while let Some((node, successors)) = stack.last_mut() {
            let node = *node;
            match successors.pop() {
                Some(next) => match self.order[next] {
                    None => stack.push(self.enter(next)),
                    Some(order) if self.is_open[next] => self.low[node] = self.low[node].min(order),
                    Some(_) => {}
                },
                None => {
                    stack.pop();
                    if let Some((parent, _)) = stack.last() {
                        self.low[*parent] = self.low[*parent].min(self.low[node]);
                    }
                    self.close(node);
                }
            }
        }
    }

    fn close(&mut self, node: usize) {
        if self.order[node] != Some(self.low[node]) {
            return;
        }
        let mut component = Vec::new();
        while let Some(member) = self.open.pop() {
            self.is_open[member] = false;
            component.push(member);
            if member == node {
                break;
            }
        }
        if component.len() > 1 {
            self.found.push(component);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(nodes: usize, edges: &[(usize, usize, Dependency)]) -> Graph {
        let mut graph = Graph::new(nodes);
        for (from, to, dependency) in edges {
            graph.add(*from, *to, *dependency, None);
        }
        graph
    }

    use Dependency::{ReadWrite, WriteRead, WriteWrite};

    #[test]
    fn components_are_the_nodes_that_lead_to_each_other() {
        let edges = [(0, 1), (1, 2), (2, 0), (2, 3), (3, 4), (4, 3), (4, 5)].map(|(a, b)| (a, b, WriteWrite));
        let mut components = graph(6, &edges).components(&|_| true);
        components.iter_mut().for_each(|component| component.sort_unstable());
        components.sort_unstable();
        assert_eq!(components, [vec![0, 1, 2], vec![3, 4]]);
    }

    #[test]
    fn a_long_chain_has_no_component_and_needs_no_deep_stack() {
        let edges: Vec<_> = (0..200_000).map(|node| (node, node + 1, WriteRead)).collect();
        assert!(graph(200_001, &edges).components(&|_| true).is_empty());
    }

    #[test]
    fn the_shortest_cycle_is_shown() {
        let edges = [(0, 1), (1, 2), (2, 3), (3, 0), (2, 0)].map(|(a, b)| (a, b, WriteWrite));
        let graph = graph(4, &edges);
        let cycle = graph.cycle_through(&[0, 1, 2, 3], &|_| true).expect("there is one");
        assert_eq!(cycle.len(), 3);
    }

    #[test]
    fn a_cycle_with_exactly_one_special_edge_is_told_from_one_with_two() {
        let is_special = |edge: &Edge| edge.dependency == ReadWrite;
        let one = graph(2, &[(0, 1, ReadWrite), (1, 0, WriteRead)]);
        assert_eq!(one.cycle_with_one(&is_special, &|_| true).expect("one").len(), 2);
        let two = graph(2, &[(0, 1, ReadWrite), (1, 0, ReadWrite)]);
        assert_eq!(two.cycle_with_one(&is_special, &|_| true), None);
    }
}
