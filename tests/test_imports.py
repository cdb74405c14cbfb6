"""What the package imports of itself."""

import graphlib

import grimp


def test_no_modules_import_each_other_in_a_circle():
    graph = grimp.build_graph("t2ilab", exclude_type_checking_imports=True)
    imports = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    assert {"t2ilab.core.path", "t2ilab.cli"} <= imports.keys()
    graphlib.TopologicalSorter(imports).prepare()  # raises CycleError, which names the circle
