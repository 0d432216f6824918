"use strict";
// The map: points are written straight into the pixels of a canvas, so that 100,000 of them take a few
// milliseconds; beside the pixels stands which image each belongs to, for the pointer.

const FEW = 150; // visible images that are shown as pictures
const PICTURE = 52; // px
const MOST_PICTURES = 600;

class ImageMap {
  // `onHover(image or -1, x, y)` and `onPick(image)` are told of the pointer, in CSS pixels.
  constructor(canvas, onHover, onPick) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: false });
    this.onHover = onHover;
    this.onPick = onPick;
    this.points = new Float32Array(0);
    this.shades = new Uint32Array(0); // of each image
    this.marked = [];
    this.ground = 0xffffffff;
    this.ring = "#000";
    this.pictures = new Map();
    this.pointers = new Map();
    this.visible = 0;
    this.milliseconds = 0; // of the last frame
    this.whole();
    this.listen();
    new ResizeObserver(() => this.redraw()).observe(canvas);
  }

  // All images, in the middle.
  whole() {
    this.zoom = 1;
    this.bounds = [[0, 0], [0, 0]];
    for (const axis of [0, 1]) {
      let least = Infinity;
      let most = -Infinity;
      for (let at = axis; at < this.points.length; at += 2) {
        least = Math.min(least, this.points[at]);
        most = Math.max(most, this.points[at]);
      }
      if (least <= most) this.bounds[axis] = [least, most];
    }
    [this.x, this.y] = this.bounds.map(([least, most]) => (least + most) / 2);
    this.redraw();
  }

  // Device pixels for a unit of the map.
  get scale() {
    const [across, down] = this.bounds.map(([least, most]) => most - least || 1);
    return 0.94 * Math.min(this.canvas.width / across, this.canvas.height / down) * this.zoom;
  }

  place(image) {
    const x = (this.points[2 * image] - this.x) * this.scale + this.canvas.width / 2;
    const y = (this.points[2 * image + 1] - this.y) * this.scale + this.canvas.height / 2;
    return [x, y];
  }

  // Where an image is, in CSS pixels from the canvas's corner.
  locate(image) {
    return this.place(image).map((value) => value / devicePixelRatio);
  }

  centre(image) {
    this.x = this.points[2 * image];
    this.y = this.points[2 * image + 1];
    this.redraw();
  }

  redraw() {
    if (this.asked) return;
    this.asked = requestAnimationFrame(() => {
      this.asked = 0;
      this.draw();
    });
  }

  fit() {
    const width = Math.max(1, Math.round(this.canvas.clientWidth * devicePixelRatio));
    const height = Math.max(1, Math.round(this.canvas.clientHeight * devicePixelRatio));
    if (this.frame && width === this.canvas.width && height === this.canvas.height) return;
    this.canvas.width = width;
    this.canvas.height = height;
    this.frame = this.context.createImageData(width, height);
    this.pixels = new Uint32Array(this.frame.data.buffer);
    this.owners = new Int32Array(width * height);
  }

  draw() {
    if (!this.canvas.clientWidth) return;
    const began = performance.now();
    this.fit();
    this.pixels.fill(this.ground);
    this.owners.fill(-1);
    this.dots();
    this.context.putImageData(this.frame, 0, 0);
    if (this.visible <= FEW) this.thumbnails();
    this.rings();
    this.milliseconds = performance.now() - began;
  }

  // Every visible image as a square, the later ones on top.
  dots() {
    const { points, shades, pixels, owners, scale } = this;
    const { width, height } = this.canvas;
    const count = points.length / 2;
    const side = this.side(count);
    const left = width / 2 - this.x * scale - side / 2;
    const top = height / 2 - this.y * scale - side / 2;
    this.visible = 0;
    for (let image = 0; image < count; image++) {
      const x = (points[2 * image] * scale + left) | 0;
      const y = (points[2 * image + 1] * scale + top) | 0;
      if (x < 0 || y < 0 || x + side > width || y + side > height) continue;
      this.visible++;
      const shade = shades[image];
      for (let row = y * width + x, end = row + side * width; row < end; row += width) {
        for (let at = row; at < row + side; at++) {
          pixels[at] = shade;
          owners[at] = image;
        }
      }
    }
  }

  // Device pixels of a square: the fewer images and the nearer, the larger.
  side(count) {
    const usual = count > 30000 ? 1.6 : count > 3000 ? 2.6 : 4;
    return Math.max(1, Math.round(Math.min(9, usual * this.zoom ** 0.3) * devicePixelRatio));
  }

  thumbnails() {
    const size = PICTURE * devicePixelRatio;
    for (const image of this.inside()) {
      const picture = this.picture(image);
      if (!picture.complete || !picture.naturalWidth) continue;
      const [x, y] = this.place(image);
      const ratio = size / Math.max(picture.naturalWidth, picture.naturalHeight);
      const width = picture.naturalWidth * ratio;
      const height = picture.naturalHeight * ratio;
      this.context.drawImage(picture, x - width / 2, y - height / 2, width, height);
      this.claim(image, x - width / 2, y - height / 2, width, height);
    }
  }

  inside() {
    const images = [];
    for (let image = 0; image < this.points.length / 2; image++) {
      const [x, y] = this.place(image);
      if (x >= 0 && y >= 0 && x < this.canvas.width && y < this.canvas.height) images.push(image);
    }
    return images.slice(0, 2 * FEW);
  }

  // The pixels of a picture are its image's.
  claim(image, left, top, width, height) {
    const right = Math.min(this.canvas.width, left + width) | 0;
    const bottom = Math.min(this.canvas.height, top + height) | 0;
    for (let y = Math.max(0, top | 0); y < bottom; y++) {
      const row = y * this.canvas.width;
      this.owners.fill(image, row + Math.max(0, left | 0), row + Math.max(0, right));
    }
  }

  picture(image) {
    let picture = this.pictures.get(image);
    if (!picture) {
      picture = new Image();
      picture.onload = () => this.redraw();
      picture.src = `/thumb?image=${image}`;
      this.pictures.set(image, picture);
      if (this.pictures.size > MOST_PICTURES) {
        this.pictures.delete(this.pictures.keys().next().value);
      }
    }
    return picture;
  }

  rings() {
    const context = this.context;
    context.lineWidth = 2 * devicePixelRatio;
    context.strokeStyle = this.ring;
    this.marked.forEach((image, place) => {
      const [x, y] = this.place(image);
      context.beginPath();
      context.arc(x, y, (place ? 5 : 9) * devicePixelRatio, 0, 2 * Math.PI);
      context.stroke();
    });
  }

  // The image at a place, or one a few pixels beside it; -1 if there is none.
  at(x, y) {
    if (!this.owners) return -1;
    const column = Math.round(x * devicePixelRatio);
    const row = Math.round(y * devicePixelRatio);
    const { width, height } = this.canvas;
    for (let reach = 0; reach <= 6 * devicePixelRatio; reach++) {
      for (let dy = -reach; dy <= reach; dy++) {
        const step = Math.abs(dy) === reach ? 1 : Math.max(1, 2 * reach);
        for (let dx = -reach; dx <= reach; dx += step) {
          const inside = column + dx >= 0 && column + dx < width && row + dy >= 0 && row + dy < height;
          const owner = inside ? this.owners[(row + dy) * width + column + dx] : -1;
          if (owner >= 0) return owner;
        }
      }
    }
    return -1;
  }

  // Zoom by a factor, so that what is at a place of the canvas stays there.
  nearer(factor, x = this.canvas.clientWidth / 2, y = this.canvas.clientHeight / 2) {
    const dx = x * devicePixelRatio - this.canvas.width / 2;
    const dy = y * devicePixelRatio - this.canvas.height / 2;
    const before = this.scale;
    this.zoom = Math.min(1e5, Math.max(0.5, this.zoom * factor));
    this.x += dx / before - dx / this.scale;
    this.y += dy / before - dy / this.scale;
    this.redraw();
  }

  move(dx, dy) {
    this.x -= (dx * devicePixelRatio) / this.scale;
    this.y -= (dy * devicePixelRatio) / this.scale;
    this.redraw();
  }

  listen() {
    const canvas = this.canvas;
    const wheel = (event) => {
      event.preventDefault();
      this.onHover(-1, 0, 0);
      this.nearer(Math.exp(-event.deltaY / 400), event.offsetX, event.offsetY);
    };
    canvas.addEventListener("wheel", wheel, { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.pointers.set(event.pointerId, [event.offsetX, event.offsetY]);
      this.moved = 0;
    });
    canvas.addEventListener("pointermove", (event) => this.pointed(event));
    canvas.addEventListener("pointerup", (event) => {
      const alone = this.pointers.size === 1;
      this.pointers.delete(event.pointerId);
      if (!alone || this.moved > 4) return;
      const image = this.at(event.offsetX, event.offsetY);
      if (image >= 0) this.onPick(image);
    });
    canvas.addEventListener("pointercancel", (event) => this.pointers.delete(event.pointerId));
    canvas.addEventListener("pointerleave", () => this.onHover(-1, 0, 0));
    canvas.addEventListener("keydown", (event) => this.key(event));
  }

  pointed(event) {
    const place = [event.offsetX, event.offsetY];
    const before = this.pointers.get(event.pointerId);
    if (!before) {
      this.onHover(this.at(...place), ...place);
      return;
    }
    this.onHover(-1, 0, 0);
    const others = [...this.pointers].filter(([pointer]) => pointer !== event.pointerId);
    if (others.length) {
      const [, [x, y]] = others[0];
      const length = ([a, b]) => Math.max(1, Math.hypot(a - x, b - y));
      this.nearer(length(place) / length(before), x, y);
    } else {
      this.move(place[0] - before[0], place[1] - before[1]);
    }
    this.moved += Math.hypot(place[0] - before[0], place[1] - before[1]);
    this.pointers.set(event.pointerId, place);
  }

  key(event) {
    const moves = { ArrowLeft: [40, 0], ArrowRight: [-40, 0], ArrowUp: [0, 40], ArrowDown: [0, -40] };
    if (event.key in moves) this.move(...moves[event.key]);
    else if (event.key === "+" || event.key === "=") this.nearer(1.4);
    else if (event.key === "-") this.nearer(1 / 1.4);
    else return;
    event.preventDefault();
  }
}
