//! Table lookup and its gradient.

use crate::elementwise::add_scaled_part;
use crate::gemm::{Weight, check};
use crate::level::level;
use crate::threads::{Parts, parallel, parallel_rows};

/// Copies row `ids[t]` of `table (vocabulary, dim)` to row `t` of `y (tokens, dim)`.
///
/// # Panics
///
/// When an id is not below the rows of the table or a slice does not have the length of its shape.
pub fn embedding(ids: &[u32], dim: usize, table: &Weight, y: &mut [f32]) {
    check("embedding", [("y", y.len(), ids.len() * dim)]);
    check_ids("embedding", ids, dim, table.len());
    let y = Parts::new(y);
    parallel_rows(ids.len(), dim, |first, count| {
        for t in first..first + count {
            // SAFETY: each task has its own rows.
            let row = unsafe { y.part(t * dim, dim) };
            table.read(ids[t] as usize * dim, row);
        }
    });
}

/// Adds row `t` of `dy (tokens, dim)` to row `ids[t]` of `dtable (vocabulary, dim)`, in the order of the tokens.
///
/// # Panics
///
/// When an id is not below the rows of the table or a slice does not have the length of its shape.
pub fn embedding_gradient(ids: &[u32], dim: usize, dy: &[f32], dtable: &mut [f32]) {
    check("embedding_gradient", [("dy", dy.len(), ids.len() * dim)]);
    check_ids("embedding_gradient", ids, dim, dtable.len());
    // Tokens share rows, columns do not: each task adds some columns of all tokens, in order.
    const COLUMNS: usize = 64;
    let (level, dtable) = (level(), Parts::new(dtable));
    parallel(dim.div_ceil(COLUMNS), |task| {
        let (from, len) = (task * COLUMNS, COLUMNS.min(dim - task * COLUMNS));
        for (t, &id) in ids.iter().enumerate() {
            // SAFETY: these columns belong to this task.
            let row = unsafe { dtable.part(id as usize * dim + from, len) };
            add_scaled_part(level, 1.0, &dy[t * dim + from..][..len], row);
        }
    });
}

fn check_ids(operation: &str, ids: &[u32], dim: usize, elements: usize) {
    let rows = elements / dim.max(1);
    if let Some((t, id)) = ids.iter().enumerate().find(|&(_, &id)| id as usize >= rows) {
        panic!("{operation}: id {id} of token {t} is outside the table of {rows} rows");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Random, assert_close, at_every_level};

    #[test]
    fn rows_are_copied_and_gradients_added_where_ids_repeat() {
        let mut random = Random(8);
        let (vocabulary, dim, tokens) = (13, 150, 500);
        let table = random.vector(vocabulary * dim);
        let ids: Vec<u32> = (0..tokens).map(|_| random.below(vocabulary) as u32).collect();
        let (dy, old) = (random.vector(tokens * dim), random.vector(vocabulary * dim));
        let mut expected: Vec<f64> = old.iter().map(|&x| f64::from(x)).collect();
        for t in 0..tokens {
            for j in 0..dim {
                expected[ids[t] as usize * dim + j] += f64::from(dy[t * dim + j]);
            }
        }
        at_every_level(|level| {
            let (mut y, mut gradient) = (vec![0.0; tokens * dim], old.clone());
            embedding(&ids, dim, &Weight::F32(&table), &mut y);
            for (t, row) in y.chunks(dim).enumerate() {
                assert_eq!(row, &table[ids[t] as usize * dim..][..dim], "{level:?} token {t}");
            }
            embedding_gradient(&ids, dim, &dy, &mut gradient);
            assert_close(&format!("{level:?}"), &gradient, &expected, 1e-5);
        });
    }

    #[test]
    #[should_panic(expected = "embedding: id 3 of token 1 is outside the table of 3 rows")]
    fn an_id_outside_the_table_is_refused() {
        embedding(&[0, 3], 2, &Weight::F32(&[0.0; 6]), &mut [0.0; 4]);
    }
}
