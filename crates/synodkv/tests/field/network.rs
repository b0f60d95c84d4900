//! Peers whose names or addresses come, go and change; copies of large databases.
