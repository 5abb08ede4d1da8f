"""A network as data: nodes, graph, shapes, costs, transforms, and the networks of the articles."""
