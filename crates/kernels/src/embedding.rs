//! Table lookup and its gradient.

use crate::gemm::{Weight, check};

/// Copies row `ids[t]` of `table (vocabulary, dim)` to row `t` of `y (tokens, dim)`.
///
/// # Panics
///
/// When an id is not below the rows of the table or a slice does not have the length of its shape.
pub fn embedding(ids: &[u32], dim: usize, table: &Weight, y: &mut [f32]) {
    check("embedding", [("y", y.len(), ids.len() * dim)]);
    for (t, &id) in ids.iter().enumerate() {
        table.read(id as usize * dim, &mut y[t * dim..(t + 1) * dim]);
    }
}

/// Adds row `t` of `dy (tokens, dim)` to row `ids[t]` of `dtable (vocabulary, dim)`, in the order of the tokens.
///
/// # Panics
///
/// When an id is not below the rows of the table or a slice does not have the length of its shape.
pub fn embedding_gradient(ids: &[u32], dim: usize, dy: &[f32], dtable: &mut [f32]) {
    check("embedding_gradient", [("dy", dy.len(), ids.len() * dim)]);
    for (t, &id) in ids.iter().enumerate() {
        let row = &mut dtable[id as usize * dim..(id as usize + 1) * dim];
        for (d, &y) in row.iter_mut().zip(&dy[t * dim..(t + 1) * dim]) {
            *d += y;
        }
    }
}
