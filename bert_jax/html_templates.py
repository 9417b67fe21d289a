"""Templates of HTML pages, which escape all text that is put into them."""

import jinja2


def template(package: str, name: str) -> jinja2.Template:
    """A template in the folder of a package, which may extend others there."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(package, "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(name)
