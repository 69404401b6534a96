//! Rows, blocks, wrapping, evaluation passes and positions.

use datasets::{BatchStream, Error, StreamCursor, batchify};

fn tokens(n: u32) -> Vec<u32> {
    (0..n).collect()
}

#[test]
fn rows_are_contiguous_and_the_remainder_is_dropped() {
    assert_eq!(batchify(&tokens(8), 3).unwrap(), [[0, 1], [2, 3], [4, 5]]);
    assert!(batchify(&tokens(2), 3).is_err());
    assert!(batchify(&tokens(2), 0).is_err());
}

/// The published rule, written down once more in its own terms, over many widths and blocks.
#[test]
fn positions_follow_the_published_rule() {
    for (width, block) in [
        (5, 4),
        (7, 4),
        (8, 4),
        (9, 4),
        (20, 7),
        (64, 1),
        (13, 12),
        (101, 10),
    ] {
        let mut stream = BatchStream::new(tokens(2 * width), 2, block).unwrap();
        let (width, mut position, mut fresh) = (width as usize, 0usize, true);
        for step in 0..60usize {
            let mut asked = None;
            let seen = stream.next_block(|below| {
                asked = Some(below);
                (step * 7) % below
            });
            assert_eq!(
                (seen.position, seen.fresh),
                (position, fresh),
                "width {width} block {block} step {step}"
            );
            for row in 0..2 {
                for column in 0..block {
                    let at = row * width + position + column;
                    assert_eq!(seen.inputs[row * block + column] as usize, at);
                    assert_eq!(seen.targets[row * block + column] as usize, at + 1);
                }
                // No target comes from the next row.
                assert!((seen.targets[row * block + block - 1] as usize) < (row + 1) * width);
            }
            position += block;
            fresh = position >= width - block;
            assert_eq!(asked.is_some(), fresh);
            if fresh {
                let below = if width < 2 * block {
                    block.min(width - block)
                } else {
                    block
                };
                assert_eq!(asked, Some(below));
                position = (step * 7) % below;
            }
        }
    }
}

#[test]
fn a_draw_out_of_range_cannot_leave_the_rows() {
    let mut stream = BatchStream::new(tokens(14), 2, 4).unwrap();
    for _ in 0..50 {
        stream.next_block(|_| usize::MAX);
        assert!(stream.cursor().position + 4 < 7);
    }
}

#[test]
fn a_pass_stops_where_the_published_evaluation_stops() {
    for (width, block) in [(5, 4), (8, 4), (9, 4), (10, 4), (21, 4), (2, 1)] {
        let mut stream = BatchStream::new(tokens(3 * width), 3, block).unwrap();
        // Evaluation does not depend on where training stands.
        stream.next_block(|_| 0);
        let mut expected = Vec::new();
        let mut position = 0;
        loop {
            expected.push((position, position == 0));
            position += block;
            if position >= width as usize - block {
                break;
            }
        }
        let seen: Vec<(usize, bool)> = stream
            .pass()
            .map(|block| (block.position, block.fresh))
            .collect();
        assert_eq!(seen, expected, "width {width} block {block}");
        assert_eq!(stream.pass().len(), stream.blocks_per_pass());
    }
}

#[test]
fn a_restored_stream_goes_on_exactly() {
    for stop in 0..12 {
        let mut whole = BatchStream::new(tokens(90), 3, 4).unwrap();
        let draw = |step: usize| move |below: usize| (step * 13 + 5) % below;
        for step in 0..stop {
            whole.next_block(draw(step));
        }
        let saved = serde_json::to_string(&whole.cursor()).unwrap();
        let mut resumed = BatchStream::new(tokens(90), 3, 4).unwrap();
        resumed
            .restore(serde_json::from_str(&saved).unwrap())
            .unwrap();
        for step in stop..30 {
            assert_eq!(resumed.next_block(draw(step)), whole.next_block(draw(step)));
        }
        assert_eq!(resumed.cursor(), whole.cursor());
        assert!(whole.cursor().passes > 2);
    }
}

#[test]
fn a_foreign_position_is_refused() {
    let good = BatchStream::new(tokens(90), 3, 4).unwrap().cursor();
    let message = |cursor: StreamCursor| {
        let mut stream = BatchStream::new(tokens(90), 3, 4).unwrap();
        let message = stream.restore(cursor).unwrap_err().to_string();
        // A refused position changes nothing.
        assert_eq!(stream.cursor(), good);
        message
    };
    assert!(message(StreamCursor { batch: 2, ..good }).contains("the batch was 2, here it is 3"));
    assert!(message(StreamCursor { block: 8, ..good }).contains("the block was 8, here it is 4"));
    assert!(
        message(StreamCursor { width: 31, ..good })
            .contains("width of a row was 31, here it is 30")
    );
    assert!(
        message(StreamCursor {
            position: 26,
            ..good
        })
        .contains("the position was 26, here it is 25")
    );
    assert!(
        message(StreamCursor {
            position: usize::MAX,
            ..good
        })
        .contains("the position")
    );
}

#[test]
fn short_streams_are_refused_with_the_needed_length() {
    let message = |n, batch, block| {
        BatchStream::new(tokens(n), batch, block)
            .unwrap_err()
            .to_string()
    };
    let short = message(100, 8, 32);
    assert!(
        short.contains("100 tokens is too short for batch 8 and block 32"),
        "{short}"
    );
    assert!(short.contains("at least 264 tokens"), "{short}");
    assert!(short.contains("a batch of at most 3"), "{short}");
    assert!(message(10, 1, 32).contains("a block of at most 9 with batch 1"));
    assert!(message(0, 1, 1).contains("give it more text"));
    // Exactly the needed length is enough, one less is not; absurd sizes do not overflow.
    assert!(BatchStream::new(tokens(264), 8, 32).is_ok());
    assert!(matches!(
        BatchStream::new(tokens(263), 8, 32),
        Err(Error::TooShort { needed: 264, .. })
    ));
    assert!(BatchStream::new(tokens(10), usize::MAX, usize::MAX).is_err());
    assert!(message(10, 0, 1).starts_with("batch_size: 0"));
    assert!(message(10, 1, 0).starts_with("block_size: 0"));
}

#[test]
fn blocks_split_along_the_batch() {
    let stream = BatchStream::with_documents(tokens(40), vec![0, 12, 21], 4, 4).unwrap();
    let block = stream.pass().next().unwrap();
    assert_eq!(block.document_starts, [(0, 0), (1, 2), (2, 1)]);
    let parts = block.split(2).unwrap();
    assert_eq!(
        [parts[0].inputs.clone(), parts[1].inputs.clone()].concat(),
        block.inputs
    );
    assert_eq!(
        [parts[0].targets.clone(), parts[1].targets.clone()].concat(),
        block.targets
    );
    assert_eq!(parts[1].document_starts, [(0, 1)]);
    assert_eq!((parts[1].batch, parts[1].length), (2, 4));
    assert!(
        block
            .split(3)
            .unwrap_err()
            .to_string()
            .contains("batch_split: 3")
    );
    assert!(block.split(0).is_err());
}
