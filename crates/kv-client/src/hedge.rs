//! Asks several servers the same question without waiting long for one that hangs.

use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::{Instant, sleep_until};

/// Asks one question after the other until one succeeds. The next one is asked as soon as one has
/// failed, or when `pause` has passed without an answer; earlier ones stay open meanwhile. The
/// first success cancels the others. Returns it with the index of its question. Each question
/// enforces its own deadline.
///
/// It must be harmless if more than one of the questions takes effect, as it is with reads.
///
/// # Errors
/// If every question failed, all failures in the order in which they came, each with the index of
/// its question.
pub async fn first_answer<T, E, F>(
    questions: impl IntoIterator<Item = F>,
    pause: Duration,
) -> Result<(usize, T), Vec<(usize, E)>>
where
    F: Future<Output = Result<T, E>>,
{
    let mut questions = questions.into_iter().enumerate();
    let mut asked = FuturesUnordered::new();
    let mut failures = Vec::new();
    let mut are_left = true;
    loop {
        match questions.next() {
            Some((place, question)) => asked.push(async move { (place, question.await) }),
            None => are_left = false,
        }
        if asked.is_empty() {
            return Err(failures);
        }
        let next_at = Instant::now() + pause;
        tokio::select! {
            Some((place, answer)) = asked.next() => match answer {
                Ok(answer) => return Ok((place, answer)),
                Err(failure) => failures.push((place, failure)),
            },
            () = sleep_until(next_at), if are_left => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::sleep;

    use super::*;

    const PAUSE: Duration = Duration::from_secs(1);

    /// Answers after this many milliseconds; `None` means never.
    async fn answer(after_ms: Option<u64>, answer: Result<u8, u8>) -> Result<u8, u8> {
        match after_ms {
            Some(ms) => sleep(Duration::from_millis(ms)).await,
            None => pending().await,
        }
        answer
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_that_hangs_costs_one_pause_and_one_that_fails_costs_no_time() {
        let begun = Instant::now();
        let questions = [answer(None, Ok(0)), answer(Some(0), Err(1)), answer(Some(0), Ok(2))];
        assert_eq!(first_answer(questions, PAUSE).await, Ok((2, 2)));
        assert!(begun.elapsed() < PAUSE * 2, "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_question_may_still_succeed_first() {
        let questions = [answer(Some(1500), Ok(0)), answer(None, Ok(1))];
        assert_eq!(first_answer(questions, PAUSE).await, Ok((0, 0)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_does_not_end_the_wait_for_other_questions() {
        // The second question fails long after the last one was asked.
        let questions = [answer(Some(10_000), Ok(0)), answer(Some(5_000), Err(1)), answer(Some(100), Err(2))];
        assert_eq!(first_answer(questions, PAUSE).await, Ok((0, 0)));
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_questions_fail_every_failure_is_returned() {
        let questions = [answer(Some(2000), Err(10)), answer(Some(0), Err(11))];
        assert_eq!(first_answer(questions, PAUSE).await, Err(vec![(1, 11), (0, 10)]));
        assert_eq!(first_answer(Vec::<std::future::Ready<Result<u8, u8>>>::new(), PAUSE).await, Err(vec![]));
    }
}
