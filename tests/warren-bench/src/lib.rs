//! Benches and budgets
