#!/usr/bin/env python3
"""Tests of the benchmarks' arithmetic; scripts/test.sh runs them. They start no server."""

import os
import sys
import time
import unittest
import xml.etree.ElementTree
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))
import charts  # noqa: E402
import options  # noqa: E402
import procs  # noqa: E402
import report  # noqa: E402
import servers  # noqa: E402


class Figures(unittest.TestCase):
    def test_the_fit_finds_both_parts(self):
        each, shared, deviation = report.fit([(n, 12 + 300 / n) for n in (1, 4, 20, 90)])
        self.assertAlmostEqual(each, 12)
        self.assertAlmostEqual(shared, 300)
        self.assertLess(deviation, 1e-9)

    def test_the_fit_weighs_relative_deviations(self):
        # The absolute deviation of the first point is the largest by far, its relative one is not.
        each, _, _ = report.fit([(1, 1100), (10, 110), (100, 20)])
        self.assertAlmostEqual(each, 9.8, delta=1)

    def test_no_fit_of_two_group_sizes(self):
        self.assertIsNone(report.fit([(1, 5), (2, 4), (2, 3)]))
        self.assertIsNone(report.fit([(None, 5), (2, 4), (3, 3)]))

    def test_medians_are_of_each_key_and_skip_what_is_missing(self):
        results = report.Results(None, {})
        for value, syncs in ((1, None), (9, 4), (2, 6)):
            results.add({"system": "a", "value": value, "syncs": syncs})
        results.add({"system": "b", "value": 7})
        medians = results.medians("system")
        self.assertEqual(medians[("a",)]["value"], 2)
        self.assertEqual(medians[("b",)]["value"], 7)

    def test_a_median_without_the_first_round_is_still_one(self):
        rows = [{"syncs": None}, {"syncs": 4}, {"syncs": 6}]
        self.assertEqual(report.median_of(rows)["syncs"], 5)

    def test_numbers_have_three_digits(self):
        shown = [report.number(value) for value in (None, 0, 0.012345, 9.876, 99.96, 1234567)]
        self.assertEqual(shown, ["n/a", "0", "0.0123", "9.88", "100", "1,234,567"])


class Metrics(unittest.TestCase):
    TEXT = """# HELP synodkv_fsyncs_total Syncs.
synodkv_fsyncs_total{replica="0"} 7
synodkv_fsyncs_total{replica="1"} 5
synodkv_batch_size_values_total{le="0",replica="0"} 1
synodkv_batch_size_values_total{le="1",replica="0"} 4
synodkv_batch_size_values_total{le="1",replica="1"} 3
etcd_server_is_leader 1
"""

    def test_samples_of_all_replicas_are_added(self):
        self.assertEqual(servers.metric(self.TEXT, "synodkv_fsyncs_total"), 12)
        self.assertEqual(servers.metric(self.TEXT, "etcd_server_is_leader"), 1)
        self.assertIsNone(servers.metric(self.TEXT, "synodkv_fsyncs"))

    def test_the_last_bucket_of_each_replica_counts(self):
        self.assertEqual(servers.most_values(self.TEXT), 7)
        self.assertIsNone(servers.total([1, None]))


class Processes(unittest.TestCase):
    def test_cpu_and_switches_of_this_process_rise(self):
        before = procs.Cost([os.getpid()])
        ends_at = time.process_time() + 0.1
        while time.process_time() < ends_at:
            pass
        time.sleep(0.001)
        cpu, switches = procs.Cost([os.getpid()]).since(before)
        self.assertGreaterEqual(cpu, 0.05)
        self.assertGreaterEqual(switches, 1)

    def test_ports_are_distinct(self):
        self.assertEqual(len(set(procs.free_ports(9))), 9)

    def test_a_list_of_names_refuses_unknown_ones(self):
        self.assertEqual(options.one_of("a", "b")("b,a"), ["b", "a"])
        with self.assertRaisesRegex(Exception, "unknown: c; allowed: a, b"):
            options.one_of("a", "b")("a,c")


class Charts(unittest.TestCase):
    def row(self, system, clients, throughput, **more):
        return {"system": system, "workload": "put", "concurrency": clients, "throughput": throughput, "p50_us": 100,
                "server_cpu_us_per_op": 50 + 100 / clients, "ops_per_group": clients, **more}

    def test_charts_are_xml_with_all_systems(self):
        rows = [self.row(system, clients, 1000 * clients) for system in ("synodkv", "etcd") for clients in (1, 16, 64)]
        drawn = dict(charts.charts(rows))
        self.assertEqual(set(drawn), {"throughput", "latency-p50", "cpu", "cpu-by-group"})
        for text in drawn.values():
            xml.etree.ElementTree.fromstring(text)
        self.assertIn("etcd, 3 processes", drawn["throughput"])

    def test_builds_get_lines_of_their_own(self):
        rows = [self.row("synodkv", 1, 10, build="this"), self.row("synodkv", 1, 20, build="against")]
        self.assertIn("SynodKV, 3 processes (against)", dict(charts.charts(rows))["throughput"])

    def test_a_logarithmic_axis_encloses_its_values(self):
        axis = charts.Logarithm(130, 4200)
        self.assertEqual((axis.low, axis.high), (100, 5000))
        self.assertEqual((axis.place(100), axis.place(5000)), (0, 1))
        same = charts.Logarithm(100, 100)
        self.assertEqual((same.low, same.high), (100, 500))


if __name__ == "__main__":
    unittest.main()
