"""Every client in another language goes through the whole scenario."""

from scenario import steps_of


def test_a_client_goes_through_the_scenario(program, server, request, run_number):
    build = request.config.getoption("--build")
    outcome = program.run(build, server, f"{program}-{run_number}")
    request.node.user_properties.append(("outcome", outcome))
    assert outcome.status in (0, 1), outcome.output
    assert sorted(outcome.passed + list(outcome.failed)) == sorted(steps_of(program.interface)), outcome.output
    assert not outcome.failed
