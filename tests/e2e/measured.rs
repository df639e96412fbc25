//! The figures in README.md and docs/performance.md, and the chart, are those of benches/results/latest.json.
//! `cargo bench --bench side_by_side -- --docs` makes them anew.

#[path = "../../benches/side_by_side/chart.rs"]
mod chart;
#[path = "../../benches/side_by_side/docs.rs"]
mod docs;

fn results() -> serde_json::Value {
    serde_json::from_str(include_str!("../../benches/results/latest.json")).unwrap()
}

#[test]
fn pages_show_the_figures_that_were_measured() {
    for (page, made) in [
        (include_str!("../../README.md"), docs::readme(&results())),
        (include_str!("../../docs/performance.md"), docs::page(&results())),
    ] {
        assert_eq!(docs::fill(page, &made).unwrap(), page);
    }
}

#[test]
fn the_chart_shows_the_figures_that_were_measured() {
    assert_eq!(chart::svg(&results()), include_str!("../../benches/results/latest.svg"));
}
