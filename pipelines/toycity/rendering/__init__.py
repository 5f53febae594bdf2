"""From fragments to pictures: drawing surface, materials, camera, PNG files."""
