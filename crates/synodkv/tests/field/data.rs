//! Text backups: what `range` writes, `import` reads back, or refuses.
